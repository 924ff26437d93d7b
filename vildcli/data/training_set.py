"""Training examples: base annotations, jittered images, the teacher's regions aligned with them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from vildcli.data.batches import ExampleKey, seeded_generator
from vildcli.data.copy_paste import Views, copy_paste
from vildcli.data.images import read_image
from vildcli.data.lvis import AnnotatedImage, Annotation, AnnotationSet, annotation_mask
from vildcli.data.transforms import Jitter, Scaling, draw_jitter, solid
from vildcli.errors import DataError
from vildcli.teacher.cache import TeacherCache
from vildcli.types import Distillation, Target

MAX_DISTILLED = 300  # regions an image, the first in stored order (as released)
MAX_OBJECTS = 300  # an image, the first in stored order that the crop leaves (as released)
_ROUNDING = 1e-4  # of areas in float32


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
    """What an image goes through.

    Attributes:
        size: canvas side in pixels.
        scaling: limits of the large-scale jitter in shares of the canvas, or multi-scale.
        fill: padding colour, 0-255.
        copy_paste: whether objects of another image are pasted.
        min_visible: share of a region's area that the crop must leave for it to be distilled. Its
            embedding stays that of the whole region.
    """

    size: int
    scaling: Scaling
    fill: tuple[float, ...]
    copy_paste: bool = False
    min_visible: float = 0.0


@dataclass(frozen=True, slots=True)
class Taught:
    """Which of the teacher's regions of an image are distilled.

    Attributes:
        count: the first in stored order; ground truth that the cache holds comes on top.
        redrawn: as many are drawn from those, with replacement.
        weighted: whether the cache's weights count, where it has any.
    """

    count: int = MAX_DISTILLED
    redrawn: bool = False
    weighted: bool = True


class TrainingSet(Dataset[Example]):
    """Indexed by `ExampleKey`: a key always gives the same example, so runs resume exactly."""

    def __init__(
        self,
        annotations: AnnotationSet,
        images: Path,
        columns: Mapping[int, int],
        augmentation: Augmentation,
        *,
        seed: int,
        teacher: TeacherCache | None,
        taught: Taught = Taught(),
    ) -> None:
        """Keep what may be trained on.

        Args:
            columns: category id to column of the text embeddings, for base categories only:
                annotations of any other category are dropped, their images stay.
        """
        self.path, self.images, self.folder = annotations.path, annotations.images, images
        self.columns, self.augmentation, self.seed = columns, augmentation, seed
        self.teacher, self.taught = teacher, taught
        self._objects = PackedObjects(
            [
                a
                for a in annotations.annotations.get(image.id, ())
                if a.category_id in columns and not a.iscrowd
            ]
            for image in annotations.images
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: tuple[int, ...]) -> Example:
        """Read and augment one image.

        Raises:
            DataError: it cannot be read, or has another size than the annotations say.
        """
        epoch, row, copy = ExampleKey(*key)
        generator = seeded_generator(self.seed, epoch, row, copy)
        image_id = self.images[row].id
        regions, embeddings, weights = torch.zeros(0, 4), None, None
        if self.teacher is not None:
            regions, embeddings, weights = self._distilled(self.teacher, image_id, generator)
        views = self._views(row, regions, generator)
        if self.augmentation.copy_paste:
            donor = int(torch.randint(len(self), (), generator=generator))
            views = copy_paste(views, self._views(donor, regions[:0], generator), generator)
        objects = (views.boxes, views.labels, views.masks)
        target = Target(*(t[:MAX_OBJECTS] for t in objects))
        distillation = None
        if embeddings is not None:
            distillation = Distillation(views.regions, embeddings, views.valid, weights)
        return Example(image_id, views.image, target, distillation)

    def _distilled(
        self, teacher: TeacherCache, image_id: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Boxes, embeddings and weights of the regions of an image that are distilled."""
        boxes, embeddings = teacher[image_id]
        is_true, weights = teacher.is_true(image_id), None
        if self.taught.weighted:
            weights = teacher.weights(image_id)
        if is_true is None:
            is_true = torch.zeros(len(boxes), dtype=torch.bool)
        others = torch.where(~is_true)[0][: self.taught.count]
        if self.taught.redrawn and len(others):
            drawn = torch.randint(len(others), (self.taught.count,), generator=generator)
            others = others[drawn]
        rows = torch.cat([torch.where(is_true)[0], others])
        return boxes[rows], embeddings[rows], None if weights is None else weights[rows]

    def _views(self, row: int, regions: Tensor, generator: torch.Generator) -> Views:
        """An image on its canvas with the objects that the crop leaves."""
        image = self._read(self.images[row])
        a = self.augmentation
        source = (image.shape[1], image.shape[2])
        jitter = draw_jitter(source, size=a.size, scaling=a.scaling, generator=generator)
        objects = self._objects[row]
        boxes = torch.tensor([o.box for o in objects], dtype=torch.float32).reshape(-1, 4)
        boxes = jitter.boxes(boxes)
        kept = torch.nonzero(solid(boxes))[:MAX_OBJECTS, 0]
        seen = [objects[i] for i in kept.tolist()]
        moved = jitter.boxes(regions)
        return Views(
            image=jitter.image(image, a.fill),
            boxes=boxes[kept],
            labels=torch.tensor([self.columns[o.category_id] for o in seen], dtype=torch.int64),
            masks=_masks(seen, jitter),
            regions=moved,
            valid=solid(moved) & (jitter.visible(regions) >= a.min_visible - _ROUNDING),
        )

    def _read(self, info: AnnotatedImage) -> Tensor:
        """[3, H, W] uint8."""
        path = self.folder / info.file_name
        image = read_image(path)
        if (image.width, image.height) != (info.width, info.height):
            raise DataError(
                f"{path} is {image.width} x {image.height} pixels; "
                f"{self.path} says {info.width} x {info.height} (image {info.id}).",
                hint="Name the images that were annotated; sizes are meant after EXIF rotation.",
            )
        return torch.from_numpy(image.pixels).permute(2, 0, 1)


def _masks(objects: Sequence[Annotation], jitter: Jitter) -> Tensor:
    """[N, S, S] bool, filled one by one: an image of 300 objects is held at one size only."""
    masks = torch.zeros(len(objects), jitter.size, jitter.size, dtype=torch.bool)
    for mask, annotation in zip(masks, objects, strict=True):
        mask.copy_(jitter.mask(torch.from_numpy(annotation_mask(annotation, *jitter.source))))
    return masks


class PackedObjects:
    """The objects of every image, in one array of bytes.

    Loading processes share its pages. A million Python objects they would each come to copy, as
    reading them changes their reference counts.
    """

    def __init__(self, images: Iterable[Sequence[Annotation]]) -> None:
        packed = [json.dumps([_values(a) for a in objects]).encode() for objects in images]
        self._bytes = np.frombuffer(b"".join(packed), dtype=np.uint8)
        self._ends = np.cumsum([0, *map(len, packed)])

    def __getitem__(self, row: int) -> list[Annotation]:
        start, end = self._ends[row : row + 2]
        rows = json.loads(self._bytes[start:end].tobytes())
        return [
            Annotation(id_, image_id, category_id, tuple(box), area, segmentation, iscrowd)
            for id_, image_id, category_id, box, area, segmentation, iscrowd in rows
        ]


def _values(a: Annotation) -> tuple[object, ...]:
    return a.id, a.image_id, a.category_id, a.box, a.area, a.segmentation, a.iscrowd
