"""Adapt a teacher from files, and say what it made of it.

The folder that comes out is an open_clip model like any other: `--teacher local-dir:FOLDER`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from vildcli.console import Advance
from vildcli.data.lvis import Annotation, AnnotationSet, load_annotations
from vildcli.devices import choose_device
from vildcli.errors import NothingToDoError, RunError
from vildcli.runs import is_run, open_run, read_run, write_json
from vildcli.teacher.adapt import (
    STATE_FILE,
    AdaptRecipe,
    Crops,
    adapt,
    open_norms,
    steps_an_epoch,
)
from vildcli.teacher.cache import find_image_files
from vildcli.teacher.chosen_regions import object_encoder
from vildcli.teacher.encoder import image_encoder_of
from vildcli.teacher.figures import name_boxes
from vildcli.teacher.ground_truth import BaseTruth, base_truth, solid_objects
from vildcli.text.bank import embed_categories
from vildcli.text.encoder import text_encoder_of
from vildcli.text.open_clip_models import CONFIG_FILE, LoadedClip, load_open_clip, save_open_clip
from vildcli.text.open_clip_weights import WEIGHTS_FILE
from vildcli.text.templates import Prompts, load_prompts

KIND = "adapted-teacher"
PROMPTS = "ezsd"
BOXES = 2000  # of a group, that the teacher is asked about
_ACCURACY_FILE = "accuracy.json"
_FOLDER_PREFIX = "local-dir:"
Accuracy = dict[str, float | None]
"""Share of true boxes that are named right, of `base` and `novel`; None where there are none."""


@dataclass(frozen=True, slots=True)
class AdaptOptions:
    """What `vildcli teach --adapt` is told.

    Attributes:
        data: COCO or LVIS JSON; images: the folder of its files.
        teacher: open_clip reference.
        base: the base categories; None: what LVIS does not call rare.
        val, val_images: what accuracy is measured on; None: on `data`.
    """

    data: Path
    images: Path
    teacher: str
    base: str | None = None
    prompts: str = PROMPTS
    val: Path | None = None
    val_images: Path | None = None
    recipe: AdaptRecipe = field(default_factory=AdaptRecipe)
    seed: int = 0
    device: str | None = None
    offline: bool = False


@dataclass(frozen=True, slots=True)
class AdaptResult:
    """An adapted teacher.

    Attributes:
        vision, text: parameters that were trained.
        objects: base objects that it was trained on.
        before, after: accuracy among all categories of the data; novel boxes are looked at for
            this alone.
    """

    folder: Path
    vision: int
    text: int
    objects: int
    before: Accuracy
    after: Accuracy


def adapt_teacher(
    options: AdaptOptions, out: Path, *, force: bool, advance: Advance
) -> AdaptResult:
    """Adapt a teacher to base ground truth; the same call continues an interrupted one.

    Raises:
        ModelError: the teacher does not load, or a tower of it has no LayerNorm.
        DataError: nothing says what is base; image files are missing or cannot be read.
        RunError: the folder holds something else.
        NothingToDoError: there is no base object.
    """
    annotations = load_annotations(options.data)
    crops = _crops(annotations, options)
    judged = _Judged.of(options, annotations)
    prompts = load_prompts(options.prompts)
    clip = load_open_clip(options.teacher, offline=options.offline)
    norms = open_norms(clip, options.recipe.towers)
    open_run(
        out,
        kind=KIND,
        settings={
            "adapted_from": clip.identity,
            "base": crops.truth.fingerprint,
            "prompts": prompts.fingerprint,
            "recipe": options.recipe.as_dict(),
            "seed": options.seed,
        },
        arguments={"teacher": options.teacher, "data": str(options.data), **judged.arguments},
        force=force,
    )
    device = choose_device(options.device)
    before, after = _read_accuracy(out)
    if before is None:
        advance(0, "asking about true boxes")
        before = judged.accuracy(clip, device, prompts)
        _write_accuracy(out, before, None)
    if after is None:
        encoder = object_encoder(image_encoder_of(clip, device))
        state = out / STATE_FILE
        adapt(
            clip,
            encoder,
            crops,
            prompts,
            options.recipe,
            state=state,
            seed=options.seed,
            advance=advance,
        )
        save_open_clip(out, clip.model.cpu(), clip.config)
        advance(0, "asking about true boxes")
        after = judged.accuracy(load_open_clip(str(out), offline=options.offline), device, prompts)
        _write_accuracy(out, before, after)
        state.unlink(missing_ok=True)
    objects = sum(len(group) for group in crops.truth.objects.values())
    vision, text = (sum(p.numel() for p in tower) for tower in (norms.vision, norms.text))
    return AdaptResult(out, vision, text, objects, before, after)


def count_steps(options: AdaptOptions) -> int:
    """Steps that `adapt_teacher` takes."""
    crops = _crops(load_annotations(options.data), options)
    return options.recipe.epochs * steps_an_epoch(crops, options.recipe)


def adapted_from(reference: str) -> str | None:
    """The identity of the teacher that a teacher was adapted from, None where it was not."""
    folder = Path(reference.removeprefix(_FOLDER_PREFIX))
    if not is_run(folder):
        return None
    try:
        found: str = read_run(folder, KIND)["settings"]["adapted_from"]
    except RunError:
        return None
    return found


def _crops(annotations: AnnotationSet, options: AdaptOptions) -> Crops:
    truth = base_truth(annotations, options.base)
    images = tuple(image for image in annotations.images if image.id in truth.objects)
    if not images:
        raise NothingToDoError(
            f"{options.data} has no object of a base category.",
            hint="The teacher is adapted to base ground truth: give annotations that have some.",
        )
    find_image_files(images, options.images)
    return Crops(images, options.images, truth)


@dataclass(frozen=True, slots=True)
class _Judged:
    """What a teacher is asked about, before and after."""

    annotations: AnnotationSet
    images: Path
    truth: BaseTruth

    @classmethod
    def of(cls, options: AdaptOptions, annotations: AnnotationSet) -> _Judged:
        folder = options.images
        if options.val is not None:
            annotations, folder = load_annotations(options.val), options.val_images or folder
            find_image_files(annotations.images, folder)
        return cls(annotations, folder, base_truth(annotations, options.base))

    @property
    def arguments(self) -> Mapping[str, str]:
        return {"judged_on": str(self.annotations.path)}

    def accuracy(self, clip: LoadedClip, device: torch.device, prompts: Prompts) -> Accuracy:
        encoder = object_encoder(image_encoder_of(clip, device))
        texts = embed_categories(self.annotations.categories, text_encoder_of(clip), prompts)
        found: Accuracy = {}
        for name, objects in self._groups().items():
            order = torch.randperm(len(objects), generator=torch.Generator().manual_seed(0))
            asked = [objects[i] for i in order[:BOXES].tolist()]
            hits = name_boxes(asked, self.annotations, self.images, encoder, texts)
            found[name] = sum(hit for _, hit in hits) / len(hits) if hits else None
        return found

    def _groups(self) -> dict[str, Sequence[Annotation]]:
        pairs = zip(self.annotations.categories, self.truth.is_base, strict=True)
        novel = {category.id for category, is_base in pairs if not is_base}
        every = self.annotations.annotations.values()
        return {
            "base": [a for group in self.truth.objects.values() for a in group],
            "novel": [a for group in every for a in solid_objects(group, novel)],
        }


def _read_accuracy(out: Path) -> tuple[Accuracy | None, Accuracy | None]:
    """What is known already; the end only where the model is there too."""
    path = out / _ACCURACY_FILE
    if not path.is_file():
        return None, None
    content = json.loads(path.read_text(encoding="utf-8"))
    is_whole = all((out / name).is_file() for name in (CONFIG_FILE, WEIGHTS_FILE))
    return content["before"], content["after"] if is_whole else None


def _write_accuracy(out: Path, before: Accuracy, after: Accuracy | None) -> None:
    write_json(out / _ACCURACY_FILE, {"before": before, "after": after})
