"""Fill a teacher cache from files: proposals of a detector, crops, embeddings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from vildcli.checkpoint import load_model
from vildcli.console import Advance
from vildcli.data.lvis import AnnotatedImage, load_annotations
from vildcli.devices import choose_device
from vildcli.runs import open_run
from vildcli.teacher.cache import fill_cache
from vildcli.teacher.encoder import image_encoder_of
from vildcli.text.open_clip_models import load_open_clip

KIND = "teacher"


@dataclass(frozen=True, slots=True)
class TeachOptions:
    """What `vildcli teach` is told.

    Attributes:
        data: COCO or LVIS JSON; images: the folder of its files.
        teacher: open_clip reference.
        proposals: a model whose proposals are embedded.
        regions: proposals an image.
    """

    data: Path
    images: Path
    teacher: str
    proposals: str
    regions: int = 300
    device: str | None = None
    offline: bool = False


def teach(options: TeachOptions, out: Path, *, force: bool, advance: Advance) -> Path:
    """Embed the proposals of every image; the same call continues an interrupted one."""
    annotations = load_annotations(options.data)
    device = choose_device(options.device)
    model = load_model(options.proposals, device)
    encoder = image_encoder_of(load_open_clip(options.teacher, offline=options.offline), device)
    open_run(
        out,
        kind=KIND,
        settings={
            "teacher": encoder.identity,
            "crops": encoder.recipe.as_dict(),
            "proposals": model.identity,
            "regions": options.regions,
        },
        force=force,
    )

    def propose(image: AnnotatedImage, pixels: Tensor) -> Tensor:
        return model.detector.proposals(pixels, count=options.regions)

    fill_cache(
        out,
        annotations.images,
        options.images,
        propose=propose,
        encoder=encoder,
        advance=advance,
    )
    return out


def count_images(options: TeachOptions) -> int:
    """Images that `teach` embeds."""
    return len(load_annotations(options.data).images)
