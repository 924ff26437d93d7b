"""Fill a teacher cache from files: proposals of a detector, crops, embeddings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vildcli.console import Advance
from vildcli.data.lvis import load_annotations
from vildcli.devices import choose_device
from vildcli.errors import NothingToDoError
from vildcli.runs import file_sha256, open_run
from vildcli.teacher.cache import TeacherCache, embed_proposals, fill_cache, find_image_files
from vildcli.teacher.encoder import image_encoder_of
from vildcli.teacher.figures import (
    TeacherFigures,
    measure_teacher,
    read_teacher_figures,
    write_teacher_figures,
)
from vildcli.teacher.proposals import open_proposals
from vildcli.text.bank import embed_categories
from vildcli.text.encoder import text_encoder_of
from vildcli.text.open_clip_models import load_open_clip
from vildcli.text.templates import load_prompts

KIND = "teacher"


@dataclass(frozen=True, slots=True)
class TeachOptions:
    """What `vildcli teach` is told.

    Attributes:
        data: COCO or LVIS JSON; images: the folder of its files.
        teacher: open_clip reference.
        proposals: whose boxes are embedded: a model, `torchvision`, or a JSON of boxes.
        regions: proposals an image.
        prompts: that the categories are named with, to see how well the teacher knows them.
    """

    data: Path
    images: Path
    teacher: str
    proposals: str
    regions: int = 300
    prompts: str = "vild-63"
    device: str | None = None
    offline: bool = False


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
        DataError: image files are missing or cannot be read; the JSON of boxes does not fit.
        RunError: the folder holds something else.
        NothingToDoError: there is no image.
    """
    annotations = load_annotations(options.data)
    if not annotations.images:
        raise NothingToDoError(f"{options.data} lists no images.")
    find_image_files(annotations.images, options.images)  # before anything slow
    prompts = load_prompts(options.prompts)
    device = choose_device(options.device)
    proposals = open_proposals(
        options.proposals, annotations, device, count=options.regions, offline=options.offline
    )
    clip = load_open_clip(options.teacher, offline=options.offline)
    encoder = image_encoder_of(clip, device)
    settings = {
        "teacher": encoder.identity,
        "crops": encoder.recipe.as_dict(),
        "proposals": proposals.identity,
        "regions": options.regions,
    }
    open_run(
        out,
        kind=KIND,
        settings=settings,
        arguments={**_arguments(options), "provenance": proposals.provenance},
        force=force,
    )
    embedded = fill_cache(
        out,
        annotations.images,
        options.images,
        regions_of=embed_proposals(proposals.propose, encoder),
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
