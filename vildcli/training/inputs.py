"""What a training run is told, and what it trains on: all that can be checked before a step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vildcli.data.base_categories import base_flags
from vildcli.data.batches import BatchPlan, repeat_factors
from vildcli.data.checks import check_training_data
from vildcli.data.lvis import AnnotationSet, load_annotations
from vildcli.data.training_set import Augmentation, Taught, TrainingSet
from vildcli.data.transforms import MultiScale, Scaling
from vildcli.detector.architecture import Architecture
from vildcli.errors import ModelError
from vildcli.systems import System
from vildcli.teacher.cache import TeacherCache
from vildcli.training.initialise import SCRATCH
from vildcli.training.processes import Processes
from vildcli.training.recipe import RECIPES, REPEAT_THRESHOLD, Recipe

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class TrainingOptions:
    """What `vildcli train` is told.

    Attributes:
        train: COCO or LVIS JSON; images: the folder of its files.
        teacher: open_clip reference: the space of the distilled embeddings, and of the names.
        text_encoder: what embeds the names instead; `glove:FILE` for the GloVe baseline.
        base: vocabulary of base categories, or `all`; None takes every category that LVIS does not
            call rare.
        teacher_cache: filled by `vildcli teach`; None makes one in the run's folder.
        proposals: what that one embeds: boxes of a model, of torchvision, of a JSON; None takes
            those of `init` if it is a model, else of a detector trained for it first, and
            `teacher`, which is usual of ezsd, lets the teacher choose among these.
        names: known to a teacher that chooses: `base`, `all` of the data's, or a vocabulary.
        init: scratch, imagenet, coco, a file of torchvision's form, or a model.
        val, val_images: annotations that are evaluated with every checkpoint.
        overrides: of the recipe's values.
        variation: of the system's row, see `vildcli.systems.VARIABLE`.
    """

    system: str
    train: Path
    images: Path
    teacher: str
    text_encoder: str | None = None
    base: str | None = None
    teacher_cache: Path | None = None
    proposals: str | None = None
    taught_regions: int = 300
    names: str = "all"
    init: str = SCRATCH
    architecture: str = "small"
    recipe: str = "world"
    prompts: str | None = None
    drop_degenerate: bool = False
    val: Path | None = None
    val_images: Path | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    variation: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    workers: int = 0
    device: str | None = None
    offline: bool = False


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Checked annotations.

    Attributes:
        annotations: all images, with what is trained on alone.
        is_base: [C] of the data set's categories.
        recipe: with its length in steps.
        repeat_factors: one an image, where the recipe repeats any.
    """

    annotations: AnnotationSet
    is_base: tuple[bool, ...]
    recipe: Recipe
    repeat_factors: Sequence[float] | None


def load_training_data(options: TrainingOptions, system: System, say: Say) -> TrainingData:
    """Read and check what is trained on.

    Raises:
        DataError: files, annotations or base list that cannot be trained on.
        ModelError: there is no such recipe.
    """
    annotations = load_annotations(options.train)
    is_base = base_flags(annotations.categories, options.base)
    pairs = zip(annotations.categories, is_base, strict=True)
    base_ids = [category.id for category, base in pairs if base]
    annotations, dropped = check_training_data(
        annotations, options.images, base_ids, drop_degenerate=options.drop_degenerate
    )
    if dropped:
        say(f"Left out objects without area: {dropped}.")
    recipe, factors = recipe_of(options, system), None
    if recipe.frozen_norms != "none" and options.init == SCRATCH:
        say(
            f"Frozen norms ({recipe.frozen_norms}) keep the statistics that they start with, and "
            "scratch has none: give --init imagenet, or --frozen-norms none."
        )
    if recipe.repeat_threshold is not None:
        factors = repeat_factors(annotations, base_ids, recipe.repeat_threshold)
    recipe = recipe.in_steps(sum(factors) if factors else len(annotations.images))
    return TrainingData(annotations, tuple(is_base), recipe, factors)


def recipe_of(options: TrainingOptions, system: System) -> Recipe:
    """The named recipe with the row's and the user's changes.

    Raises:
        ModelError: there is no such recipe.
    """
    if options.recipe not in RECIPES:
        raise ModelError(
            f"There is no recipe '{options.recipe}'.", hint=f"Recipes: {', '.join(RECIPES)}."
        )
    recipe, overrides = RECIPES[options.recipe], dict(options.overrides)
    if batch := overrides.pop("batch", None):
        recipe = recipe.with_batch(batch)
    if system.repeat_factors and recipe.repeat_threshold is None:
        recipe = replace(recipe, repeat_threshold=REPEAT_THRESHOLD)
    return replace(recipe, **overrides)


def make_training_set(
    options: TrainingOptions,
    data: TrainingData,
    columns: Mapping[int, int],
    architecture: Architecture,
    cache: Path | None,
) -> TrainingSet:
    """The examples.

    Args:
        columns: category id to column of the class logits, of base categories only.
        cache: the teacher's embeddings; None where nothing is distilled.
    """
    annotations, recipe = data.annotations, data.recipe
    teacher = None if cache is None else TeacherCache(cache, annotations.images, options.images)
    fill = tuple(255 * value for value in architecture.pixel_mean)
    size, scaling = _scaling(architecture, recipe)
    augmentation = Augmentation(
        size, scaling, fill, copy_paste=recipe.copy_paste, min_visible=recipe.min_visible
    )
    taught = Taught(recipe.distilled_regions, recipe.redrawn_regions, recipe.region_weights)
    return TrainingSet(
        annotations,
        options.images,
        columns,
        augmentation,
        seed=options.seed,
        teacher=teacher,
        taught=taught,
    )


def count_objects(data: TrainingData, columns: Mapping[int, int], categories: int) -> list[float]:
    """How many objects of each category an epoch shows, repeats counted; for Seesaw loss.

    Args:
        columns: category id to column, of base categories only; the others count 0.
    """
    counts = [0.0] * categories
    factors = data.repeat_factors or [1.0] * len(data.annotations.images)
    for image, factor in zip(data.annotations.images, factors, strict=True):
        for a in data.annotations.annotations.get(image.id, ()):
            if a.category_id in columns and not a.iscrowd:
                counts[columns[a.category_id]] += factor
    return counts


def plan_batches(data: TrainingData, seed: int, processes: Processes) -> BatchPlan:
    """The share of every batch that this process takes."""
    return BatchPlan(
        len(data.annotations.images),
        data.recipe.batch,
        seed,
        0,
        data.recipe.length,
        repeat_factors=data.repeat_factors,
        rank=processes.rank,
        world=processes.world,
    )


def _scaling(architecture: Architecture, recipe: Recipe) -> tuple[int, Scaling]:
    """Side of the training canvas, and how images are fitted into it."""
    if recipe.multi_scale is None:
        return architecture.image_size, recipe.jitter
    shortest, longest, long_side = recipe.multi_scale
    size = math.ceil(long_side / architecture.stride) * architecture.stride
    return size, MultiScale((shortest, longest), long_side)
