from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from vildcli import weights
from vildcli.checkpoint import load_model
from vildcli.data.lvis import AnnotationSet, load_annotations
from vildcli.errors import ModelError
from vildcli.evaluation.leaks import doubts, leaks
from vildcli.labelling.model import open_labelling_model
from vildcli.labelling.options import LabellingOptions
from vildcli.runs import file_sha256
from vildcli.teacher.proposals import Proposals, open_proposals
from vildcli.teacher.torchvision_proposals import TorchvisionProposer
from vildcli.vocabulary.category import Category, Vocabulary

CPU = torch.device("cpu")


def noise(height: int = 50, width: int = 60) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)


@pytest.fixture
def annotations(data: Path) -> AnnotationSet:
    return load_annotations(data)


def opened(reference: object, annotations: AnnotationSet, count: int = 300) -> Proposals:
    return open_proposals(str(reference), annotations, CPU, count=count, offline=True)


def test_a_models_first_stage(student: Path, annotations: AnnotationSet) -> None:
    proposals = opened(student, annotations, count=7)
    model = load_model(student, CPU)
    found = proposals.propose(annotations.images[0], noise())
    assert found.shape == (7, 4)
    assert torch.equal(found, model.detector.proposals(noise(), count=7))
    assert proposals.identity == model.identity
    assert proposals.provenance == {
        "model": model.identity,
        "system": "vild-text",
        "trained_on": ["apple", "pear"],
        "init": "scratch",
    }
    assert leaks({"proposals": proposals.provenance}, "lvis") == []
    assert doubts({"proposals": proposals.provenance}) == []


def test_a_json_of_boxes(tmp_path: Path, annotations: AnnotationSet) -> None:
    path = tmp_path / "boxes.json"
    bboxes = [[4, 5, 14, 20], [50, 40, 30, 30], [70, 10, 5, 5], [3, 3, 0, 5], [-9, -9, 19, 19]]
    rows = [
        {"image_id": image.id, "bbox": bbox, "score": 0.9 - i / 10}
        for image in annotations.images
        for i, bbox in enumerate(bboxes)
    ]
    path.write_text(json.dumps(rows))
    proposals = opened(path, annotations)
    found = proposals.propose(annotations.images[2], noise())
    # Clipped to the image; what lies outside or has no area is no region.
    assert found.tolist() == [[4, 5, 18, 25], [50, 40, 60, 50], [0, 0, 10, 10]]
    assert proposals.identity == f"boxes {file_sha256(path)}"
    assert proposals.provenance == "The boxes of boxes.json; what made them is not known."
    assert doubts({"proposals": proposals.provenance}) != []


def test_nothing_there(tmp_path: Path, annotations: AnnotationSet) -> None:
    with pytest.raises(ModelError) as error:
        opened(tmp_path / "none.json", annotations)
    assert str(error.value) == f"There is no JSON of boxes at {tmp_path / 'none.json'}."
    assert error.value.hint == "Give --proposals torchvision, a model, or a COCO JSON of boxes."
    with pytest.raises(ModelError, match="There is no model at nowhere"):
        opened("nowhere", annotations)
    with pytest.raises(ModelError, match=r"weights of torchvision's Mask R-CNN are not here"):
        opened("torchvision", annotations)


@pytest.mark.slow
def test_torchvisions_first_stage(
    annotations: AnnotationSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.models.detection import maskrcnn_resnet50_fpn

    torch.manual_seed(0)
    network: Any = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=91)
    path = weights.plan_fetch(["torchvision"])[0].path
    path.parent.mkdir(parents=True)
    torch.save(network.state_dict(), path)
    made: list[TorchvisionProposer] = []

    def small(*arguments: Any, **more: Any) -> TorchvisionProposer:
        made.append(TorchvisionProposer(*arguments, **more))
        for model in (made[0].model, network):
            model.transform.min_size, model.transform.max_size = (64,), 96
        monkeypatch.delattr(made[0].model, "roi_heads")  # no box, no mask is computed
        return made[0]

    monkeypatch.setattr("vildcli.teacher.proposals.TorchvisionProposer", small)
    proposals = opened("torchvision", annotations, count=20)
    found = proposals.propose(annotations.images[0], noise(48, 70))
    assert found.shape == (20, 4)
    # Torchvision's own first stage gives the same boxes, without their scores.
    network.eval()
    batch, _ = network.transform([noise(48, 70).float() / 255])
    with torch.inference_mode():
        theirs = network.rpn(batch, network.backbone(batch.tensors))[0][0]
    scale = torch.tensor([70 / batch.image_sizes[0][1], 48 / batch.image_sizes[0][0]]).repeat(2)
    distances = (found[:, None] - theirs * scale).abs().amax(2).min(1).values
    assert distances.max() < 1e-3
    assert proposals.identity == f"torchvision {path.name}"
    assert "all 80 categories of COCO train2017" in str(proposals.provenance)
    assert leaks({"proposals": proposals.provenance}, "coco-48-17") != []


def test_labelling_takes_no_json_of_boxes(tmp_path: Path, clip: str) -> None:
    options = LabellingOptions(
        model="clip-on-crops", teacher=clip, proposals="boxes.json", offline=True, device="cpu"
    )
    with pytest.raises(ModelError) as error:
        open_labelling_model(Vocabulary("fruit", (Category(1, "apple"),)), options)
    assert str(error.value) == (
        "boxes.json cannot give the boxes to label: a model is shown pixels, not the names that a "
        "file's boxes are matched by."
    )
    assert error.value.hint == "Give --proposals torchvision, or a model."
