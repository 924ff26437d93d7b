"""What `benchmarks.isal` retrains: a head on the features of a frozen backbone.

An image is seen once: its proposals and true boxes, with FC features of each. A head is a region
projection, a background embedding and a box regressor on those, trained in seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchvision.ops import nms

from vildcli import console
from vildcli.data.images import read_image
from vildcli.data.lvis import AnnotatedImage, AnnotationSet
from vildcli.detector.boxes import BOX_CODE_WEIGHTS, decode_boxes, encode_boxes, match_boxes
from vildcli.detector.detector import Detector
from vildcli.detector.losses import box_loss, class_logits
from vildcli.detector.postprocess import top_detections
from vildcli.detector.proposals import select_proposals
from vildcli.detector.sampling import FOREGROUND_IOU
from vildcli.evaluation.evaluate import evaluate
from vildcli.evaluation.predictions import Predictions, concatenate
from vildcli.evaluation.truth import Truth
from vildcli.runs import write_atomically
from vildcli.selection.pool import PSEUDO_SCORE
from vildcli.world.world import World

PROPOSALS = 100  # an image
LABEL_NMS = 0.6
HEAD_STEPS, HEAD_ROWS, HEAD_RATE = 400, 1024, 3e-3


@dataclass(frozen=True, slots=True)
class Scene:
    """One image as the frozen part of the detector sees it.

    Attributes:
        boxes: [P + N, 4] proposals, then the true boxes; original image frame.
        features: [P + N, F] FC features of those.
        true_boxes: [N, 4]; columns: [N] 0..C-1.
    """

    info: AnnotatedImage
    boxes: Tensor
    features: Tensor
    true_boxes: Tensor
    columns: Tensor

    @property
    def proposals(self) -> int:
        return len(self.boxes) - len(self.true_boxes)

    def labels(self, boxes: Tensor, columns: Tensor, rows: int) -> tuple[Tensor, Tensor]:
        """Labels [rows] (0 is background) and box codes [rows, 4] of the first rows."""
        iou, match = match_boxes(self.boxes[:rows], boxes)
        if not len(boxes):
            return torch.zeros_like(match), torch.zeros(rows, 4)
        labels = torch.where(iou > FOREGROUND_IOU, columns[match] + 1, 0)
        return labels, encode_boxes(boxes[match], self.boxes[:rows], BOX_CODE_WEIGHTS)


class Head(nn.Module):
    """What is retrained."""

    def __init__(self, features: int, words: Tensor, temperature: float) -> None:
        super().__init__()
        self.words, self.temperature = words, temperature
        self.project, self.boxes = nn.Linear(features, words.shape[1]), nn.Linear(features, 4)
        self.background = nn.Parameter(torch.randn(words.shape[1]) * 0.01)
        nn.init.normal_(self.boxes.weight, std=0.001)
        nn.init.zeros_(self.boxes.bias)

    def embed(self, features: Tensor) -> Tensor:
        return F.normalize(self.project(features), dim=-1)

    def logits(self, features: Tensor) -> Tensor:
        """[M, 1 + C], background first."""
        return class_logits(self.embed(features), self.words, self.background, self.temperature)


@dataclass(frozen=True, slots=True)
class Bench:
    """The world, seen once."""

    world: World
    pool: tuple[Scene, ...]
    reference: tuple[Scene, ...]
    evaluated: tuple[Scene, ...]
    truth: Truth
    words: Tensor
    temperature: float


def see_scenes(
    detector: Detector, annotations: AnnotationSet, images: Path, cache: Path
) -> tuple[Scene, ...]:
    """Every image through the frozen part, or as it was stored."""
    place = {category.id: k for k, category in enumerate(annotations.categories)}
    if not cache.exists():
        tensors: dict[str, Tensor] = {}
        with console.progress(f"Caching {cache.stem}", len(annotations.images)) as advance:
            for info in annotations.images:
                known = _true(annotations, info, place)[0]
                boxes, features = _frozen(detector, images / info.file_name, known)
                tensors |= {f"{info.id}.boxes": boxes, f"{info.id}.features": features}
                advance()
        write_atomically(cache, lambda path: save_file(tensors, path))
    stored = load_file(cache)
    return tuple(
        Scene(
            info,
            stored[f"{info.id}.boxes"],
            stored[f"{info.id}.features"],
            *_true(annotations, info, place),
        )
        for info in annotations.images
    )


def _true(
    annotations: AnnotationSet, info: AnnotatedImage, place: dict[int, int]
) -> tuple[Tensor, Tensor]:
    objects = annotations.annotations.get(info.id, ())
    boxes = torch.tensor([o.box for o in objects], dtype=torch.float32).reshape(-1, 4)
    return boxes, torch.tensor([place[o.category_id] for o in objects], dtype=torch.int64)


@torch.inference_mode()
def _frozen(detector: Detector, file: Path, known: Tensor) -> tuple[Tensor, Tensor]:
    canvas = detector.canvas(torch.from_numpy(read_image(file).pixels).permute(2, 0, 1))
    pyramid = detector.backbone(canvas.pixels[None])
    predictions = detector.proposal_head(pyramid)
    [(found, _)] = select_proposals(predictions, [canvas.content], per_level=1000, total=PROPOSALS)
    regions = torch.cat([found, canvas.from_original(known)])
    features, _ = detector.head(detector.box_pool(pyramid, [regions]))
    return torch.cat([canvas.to_original(found), known]).clone(), features.clone()


def train_head(bench: Bench, scenes: Sequence[Scene], seed: int) -> Head:
    torch.manual_seed(seed)
    features = torch.cat([s.features for s in scenes])
    marks = [s.labels(s.true_boxes, s.columns, len(s.boxes)) for s in scenes]
    labels, codes = (torch.cat(column) for column in zip(*marks, strict=True))
    head = Head(features.shape[1], bench.words, bench.temperature)
    optimiser = torch.optim.AdamW(head.parameters(), HEAD_RATE, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, HEAD_RATE, total_steps=HEAD_STEPS)
    for _ in range(HEAD_STEPS):
        rows = torch.randint(0, len(features), (HEAD_ROWS,))
        objects = rows[labels[rows] > 0]
        loss = F.cross_entropy(head.logits(features[rows]), labels[rows])
        loss = loss + box_loss(head.boxes(features[objects]), codes[objects]).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return head.eval().requires_grad_(False)


def ask_head(head: Head, scene: Scene) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes [P, 4], scores [P, C] and embeddings [P, D] of an image's proposals."""
    features, proposals = scene.features[: scene.proposals], scene.boxes[: scene.proposals]
    boxes = decode_boxes(head.boxes(features), proposals, BOX_CODE_WEIGHTS)
    limit = torch.tensor([scene.info.width, scene.info.height] * 2)
    scores = head.logits(features).softmax(-1)[:, 1:]
    return boxes.clamp(min=0).minimum(limit), scores, head.embed(features)


def pseudo_boxes(head: Head, scene: Scene) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Pseudo boxes [K, 4], columns and scores [K], best first; the image's embedding [D]."""
    boxes, scores, embeddings = ask_head(head, scene)
    best, columns = scores.max(1)
    kept = nms(boxes, best, LABEL_NMS)
    kept = kept[best[kept] >= PSEUDO_SCORE]
    embedding = F.normalize(embeddings.mean(0), dim=0)
    return boxes[kept], columns[kept], best[kept], embedding


def box_ap(bench: Bench, head: Head) -> dict[str, float]:
    """Box AP in percent, by LVIS's rules."""
    ids = np.array([c.id for c in bench.truth.annotations.categories])
    parts = []
    for scene in bench.evaluated:
        boxes, scores, _ = ask_head(head, scene)
        rows, columns = top_detections(boxes, scores, count=300, iou=0.5)
        corners = boxes[rows].double().numpy()
        corners[:, 2:] -= corners[:, :2]
        image = np.full(len(rows), scene.info.id)
        best = scores[rows, columns].double().numpy()
        parts.append(Predictions(image, ids[columns.numpy()], corners, best, None))
    rows_of = bench.truth.content["annotations"]
    plain = [{k: v for k, v in row.items() if k != "segmentation"} for row in rows_of]
    truth = replace(bench.truth, content={**bench.truth.content, "annotations": plain})
    metrics = evaluate(truth, concatenate(parts))[0][0].metrics
    return {key: round(100 * metrics[key], 2) for key in ("APr", "APc", "APf", "AP", "AP50")}
