"""What a user chooses of a model and its words."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vildcli.detector.postprocess import NmsKind
from vildcli.labelling.detectors import Precision
from vildcli.labelling.labeller import LabelPolicy
from vildcli.labelling.stored import RegionType
from vildcli.labelling.tiles import Tiling

CLIP_ON_CROPS = "clip-on-crops"
DEFAULT_TEACHER = "ViT-B-32:openai"


@dataclass(frozen=True, slots=True)
class LabellingOptions:
    """What a user chooses of a model; None is the model's own default.

    Attributes:
        model: a model file, a training run, or clip-on-crops.
        teacher: open_clip reference; with a vild-text model it makes vild-text-clip.
        proposals: `torchvision`, or a model whose regions clip-on-crops takes.
        regions: taken from an image, by objectness, before any labelling; of a trained detector in
            tiles, from each tile.
        attribute_prompts: sentences that attributes are put into.
        context: `none`, or a vocabulary to score against beside the user's.
        text_bank: ready embeddings of the vocabulary.
        fusion: `uniform:W` weighs the text side by W for every category.
        roll_up: score from which a name is sure enough; below it a region gets the nearest broader
            name that is. None never rolls up.
        tiling: how images larger than a tile are cut.
        precision: of convolutions and products.
        region_dtype: what region embeddings are rounded to before they are scored, and stored as.
    """

    model: str = CLIP_ON_CROPS
    teacher: str | None = None
    proposals: str = "torchvision"
    regions: int | None = None
    prompts: str | None = None
    attribute_prompts: str | None = None
    context: str | None = None
    text_bank: Path | None = None
    fusion: str | None = None
    floor: float = 0.01
    max_det: int = 300
    nms: NmsKind = "agnostic"
    roll_up: float | None = None
    tiling: Tiling | None = None
    precision: Precision = "fp32"
    region_dtype: RegionType = "float16"
    device: str | None = None
    offline: bool = False

    @property
    def policy(self) -> LabelPolicy:
        return LabelPolicy(self.floor, self.max_det, self.nms)
