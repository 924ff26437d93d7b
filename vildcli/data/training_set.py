"""Training examples: base annotations, jittered images, the teacher's regions aligned with them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from vildcli.data.images import read_image
from vildcli.data.lvis import Annotation, AnnotationSet, annotation_mask
from vildcli.data.transforms import Views, flip_at_random, make_views, scale_jitter, solid
from vildcli.teacher.cache import TeacherCache
from vildcli.types import Distillation, Target

MAX_DISTILLED = 300  # regions an image, the first in stored order (as released)


@dataclass(frozen=True, slots=True)
class Example:
    """One training image; everything in canvas pixels.

    Attributes:
        image: [3, S, S] uint8.
        distillation: None where the system does not distil.
    """

    image_id: int
    image: Tensor
    target: Target
    distillation: Distillation | None


@dataclass(frozen=True, slots=True)
class Augmentation:
    """Canvas side in pixels, limits of the scale jitter, padding colour (0-255)."""

    size: int
    limits: tuple[float, float]
    fill: tuple[float, ...]


class TrainingSet(Dataset[Example]):
    """Indexed by (epoch, row): a pair always gives the same example, so runs resume exactly."""

    def __init__(
        self,
        annotations: AnnotationSet,
        images: Path,
        columns: Mapping[int, int],
        augmentation: Augmentation,
        *,
        seed: int,
        teacher: TeacherCache | None,
    ) -> None:
        """Keep what may be trained on.

        Args:
            columns: category id to column of the text embeddings, for base categories only:
                annotations of any other category are dropped, their images stay.
        """
        self.annotations, self.folder, self.columns = annotations, images, columns
        self.augmentation, self.seed, self.teacher = augmentation, seed, teacher

    def __len__(self) -> int:
        return len(self.annotations.images)

    def __getitem__(self, key: tuple[int, int]) -> Example:
        epoch, row = key
        info = self.annotations.images[row]
        image = torch.from_numpy(read_image(self.folder / info.file_name).pixels).permute(2, 0, 1)
        objects = self._base_objects(info.id)
        embeddings = None
        regions = torch.zeros(0, 4)
        if self.teacher is not None:
            regions, embeddings = self.teacher[info.id]
            regions, embeddings = regions[:MAX_DISTILLED], embeddings[:MAX_DISTILLED]
        generator = torch.Generator().manual_seed(
            hash((self.seed, epoch, row)) & 0x7FFF_FFFF_FFFF_FFFF
        )
        views = self._augment(_views(image, objects, regions), generator)
        kept = solid(views.boxes)
        labels = torch.tensor([self.columns[o.category_id] for o in objects], dtype=torch.int64)
        target = Target(
            views.boxes[kept].as_subclass(Tensor),
            labels[kept],
            views.masks[kept].as_subclass(Tensor),
        )
        boxes = views.regions.as_subclass(Tensor)
        distillation = None if embeddings is None else Distillation(boxes, embeddings, solid(boxes))
        return Example(info.id, views.image.as_subclass(Tensor), target, distillation)

    def _base_objects(self, image_id: int) -> list[Annotation]:
        return [
            annotation
            for annotation in self.annotations.annotations.get(image_id, ())
            if annotation.category_id in self.columns and not annotation.iscrowd
        ]

    def _augment(self, views: Views, generator: torch.Generator) -> Views:
        a = self.augmentation
        views = flip_at_random(views, generator)
        return scale_jitter(views, size=a.size, limits=a.limits, fill=a.fill, generator=generator)


def _views(image: Tensor, objects: Sequence[Annotation], regions: Tensor) -> Views:
    height, width = image.shape[-2:]
    boxes = torch.tensor([o.box for o in objects], dtype=torch.float32).reshape(-1, 4)
    masks = torch.zeros(len(objects), height, width, dtype=torch.bool)
    for i, annotation in enumerate(objects):
        masks[i] = torch.from_numpy(annotation_mask(annotation, height, width))
    return make_views(image, boxes, masks, regions)


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """Batches of (epoch, row) from a step on; a pure function of the seed and the step.

    Each epoch is a permutation of the images; a batch may run over its end into the next.
    """

    images: int
    batch: int
    seed: int
    first_step: int
    steps: int

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for step in range(self.first_step, self.steps):
            yield [self._place(step * self.batch + i) for i in range(self.batch)]

    def __len__(self) -> int:
        return self.steps - self.first_step

    def _place(self, position: int) -> tuple[int, int]:
        epoch, row = divmod(position, self.images)
        return epoch, int(self._order(epoch)[row])

    def _order(self, epoch: int) -> Tensor:
        generator = torch.Generator().manual_seed(hash((self.seed, epoch)) & 0x7FFF_FFFF_FFFF_FFFF)
        return torch.randperm(self.images, generator=generator)
