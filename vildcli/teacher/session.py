"""Fill a teacher cache from files: proposals of a detector, or of the teacher's own choice."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vildcli.console import Advance
from vildcli.data.lvis import AnnotatedImage, AnnotationSet, load_annotations
from vildcli.devices import choose_device
from vildcli.errors import NothingToDoError
from vildcli.runs import file_sha256, open_run
from vildcli.teacher.adapt_session import adapted_from
from vildcli.teacher.cache import (
    TaughtRegions,
    TeacherCache,
    embed_proposals,
    fill_cache,
    find_image_files,
)
from vildcli.teacher.chosen_regions import (
    ANCHORS,
    SURPLUS,
    TEACHER,
    Pick,
    RegionChoice,
    object_encoder,
    refuse_empty_pick,
    usual_pick,
)
from vildcli.teacher.crops import ImageEncoder
from vildcli.teacher.encoder import image_encoder_of
from vildcli.teacher.figures import (
    TeacherFigures,
    measure_teacher,
    read_teacher_figures,
    write_teacher_figures,
)
from vildcli.teacher.ground_truth import base_truth
from vildcli.teacher.known_names import ALL, known_names
from vildcli.teacher.proposals import open_proposals
from vildcli.text.bank import embed_categories
from vildcli.text.encoder import text_encoder_of
from vildcli.text.open_clip_models import LoadedClip, load_open_clip
from vildcli.text.templates import Prompts, load_prompts

KIND = "teacher"


@dataclass(frozen=True, slots=True)
class TeachOptions:
    """What `vildcli teach` is told.

    Attributes:
        data: COCO or LVIS JSON; images: the folder of its files.
        teacher: open_clip reference.
        proposals: whose boxes are embedded: a model, `torchvision`, a JSON of boxes, or `teacher`,
            which chooses them itself.
        regions: proposals an image.
        prompts: that the categories are named with; None takes those that are usual.
        base, names, among, pick: of `teacher`: the base categories (None: what LVIS does not call
            rare), the names known at training time (`base`, `all` or a vocabulary), whose boxes it
            chooses among (`anchors`, or what else `proposals` may say), and what is kept of the
            candidates (None: what is usual).
    """

    data: Path
    images: Path
    teacher: str
    proposals: str
    regions: int = 300
    prompts: str | None = None
    device: str | None = None
    offline: bool = False
    base: str | None = None
    names: str = ALL
    among: str = ANCHORS
    pick: Pick | None = None


@dataclass(frozen=True, slots=True)
class TeachResult:
    """A filled cache.

    Attributes:
        images: that were asked for; embedded: those that this call embedded.
        figures: how far the cache can be trusted, on these images.
    """

    folder: Path
    images: int
    embedded: int
    figures: TeacherFigures


def teach(options: TeachOptions, out: Path, *, force: bool, advance: Advance) -> TeachResult:
    """Embed the proposals of every image; the same call continues an interrupted one.

    Then the teacher is asked about true boxes, and the proposals are held against them: see
    `vildcli.teacher.figures`.

    Raises:
        ModelError: the teacher or the proposals' model is missing or does not load.
        DataError: image files are missing or cannot be read; the JSON of boxes does not fit; the
            known names miss base categories.
        RunError: the folder holds something else.
        NothingToDoError: there is no image.
    """
    annotations = load_annotations(options.data)
    if not annotations.images:
        raise NothingToDoError(f"{options.data} lists no images.")
    find_image_files(annotations.images, options.images)  # before anything slow
    prompts = load_prompts(options.prompts or usual_prompts(options.proposals))
    device = choose_device(options.device)
    open_regions = _choice if options.proposals == TEACHER else _proposals
    make_source = open_regions(options, annotations, device, prompts)
    clip = load_open_clip(options.teacher, offline=options.offline)
    source = make_source(clip, image_encoder_of(clip, device))
    encoder = source.encoder
    open_run(
        out,
        kind=KIND,
        settings={
            "teacher": encoder.identity,
            **({"adapted_from": adapted} if (adapted := adapted_from(options.teacher)) else {}),
            "crops": encoder.recipe.as_dict(),
            **source.settings,
        },
        arguments={**_arguments(options), "provenance": source.provenance},
        force=force,
    )
    embedded = fill_cache(
        out,
        annotations.images,
        options.images,
        regions_of=source.regions_of,
        advance=advance,
    )
    data = file_sha256(options.data)
    figures = read_teacher_figures(out)
    measured = figures and (figures["data"], figures["prompts"])
    if embedded or figures is None or measured != (data, prompts.fingerprint):
        advance(0, "asking about true boxes")
        figures = measure_teacher(
            TeacherCache(out, annotations.images, options.images),
            annotations,
            options.images,
            encoder,
            lambda: embed_categories(annotations.categories, text_encoder_of(clip), prompts),
            data=data,
            prompts=prompts.fingerprint,
        )
        write_teacher_figures(out, figures)
    return TeachResult(out, len(annotations.images), embedded, figures)


@dataclass(frozen=True, slots=True)
class _Source:
    """Where the regions of a cache come from.

    Attributes:
        regions_of: an image and its pixels [3, H, W] uint8 to its regions.
        encoder: with the crops that their embeddings are of.
    """

    regions_of: Callable[[AnnotatedImage, Tensor], TaughtRegions]
    encoder: ImageEncoder
    settings: Mapping[str, Any]
    provenance: str | Mapping[str, Any]


_MakeSource = Callable[[LoadedClip, ImageEncoder], _Source]


def _proposals(
    options: TeachOptions, annotations: AnnotationSet, device: torch.device, prompts: Prompts
) -> _MakeSource:
    proposals = open_proposals(
        options.proposals, annotations, device, count=options.regions, offline=options.offline
    )
    settings = {"proposals": proposals.identity, "regions": options.regions}

    def make(clip: LoadedClip, encoder: ImageEncoder) -> _Source:
        regions_of = embed_proposals(proposals.propose, encoder)
        return _Source(regions_of, encoder, settings, proposals.provenance)

    return make


def _choice(
    options: TeachOptions, annotations: AnnotationSet, device: torch.device, prompts: Prompts
) -> _MakeSource:
    truth = base_truth(annotations, options.base)
    names = known_names(options.names, annotations.categories, truth.is_base)
    pick = options.pick or usual_pick(names)
    refuse_empty_pick(pick, names)
    among = None
    if options.among != ANCHORS:
        count = SURPLUS * options.regions
        among = open_proposals(
            options.among, annotations, device, count=count, offline=options.offline
        )

    def make(clip: LoadedClip, encoder: ImageEncoder) -> _Source:
        choice = RegionChoice(
            encoder=encoder,
            names=names,
            texts=embed_categories(names.categories, text_encoder_of(clip), prompts),
            truth=truth,
            count=options.regions,
            pick=pick,
            among=among,
        )
        settings = {**choice.as_settings(), "prompts": prompts.fingerprint}

        return _Source(choice, object_encoder(encoder), settings, choice.provenance)

    return make


def usual_prompts(proposals: str) -> str:
    """Sentences that names are put into unless others are asked for."""
    return "ezsd" if proposals == TEACHER else "vild-63"


def count_images(options: TeachOptions) -> int:
    """Images that `teach` embeds."""
    return len(load_annotations(options.data).images)


def _arguments(options: TeachOptions) -> dict[str, str]:
    return {
        "data": str(options.data),
        "images": str(options.images),
        "teacher": options.teacher,
        "proposals": options.proposals,
    }
