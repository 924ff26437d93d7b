"""The detector's shape as data: what a model file must say so that its weights can be read back."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from vildcli.errors import ModelError

_LATER = ("output_norms", "separate_convs")


@dataclass(frozen=True, slots=True)
class Architecture:
    """Sizes and options of backbone, pyramid and heads; the defaults are ViLD's published ones.

    What follows `norms` differs between ViLD and the ports whose weights are read.

    Attributes:
        backbone: one of `backbone.BODIES`.
        image_size: side of the square an image is fitted into, pixels.
        levels: pyramid levels; level l has stride 2**l. For levels above the backbone's last see
            `extra_levels`.
        channels: width of the pyramid and of every head's convolutions.
        rpn_convs, box_convs, box_fcs, mask_convs: depth of the heads.
        fc_width: width of the box head's fully connected layers.
        anchor_scale: anchor side in strides.
        anchor_ratios: height / width, in the order of the weights.
        roi_samples: RoIAlign's samples a cell, each way; 0 is as many as cover the cell.
        norm_momentum, norm_eps: batch norm, in PyTorch's sense of momentum.
        pixel_mean, pixel_std: of RGB in 0-1.
        norms: what batch norm follows besides the pyramid's outputs and the box head's
            convolutions: the pyramid's `lateral` ones (then none of the pyramid's has a bias),
            those of the `rpn`, the box head's `fc`s, all of the `mask` head.
        extra_levels: a stride-2 `convolution` of the level below, or every second cell of it.
        pooled_levels: levels that regions are pooled from, where not from all.
        roi_aligned: whether RoIAlign shifts by half a pixel, as it does since its authors fixed it.
        anchor_offset: where in its cell an anchor is centred, in strides.
        clamp_shrinking: whether a box code that shrinks is bounded as one that grows is.
        min_proposal_side: narrower proposals are dropped, pixels of the canvas.
        short_side: pixels that the short side is scaled to, where the long one then fits into
            `image_size`; None fits the long side alone.
        resize: bilinear, `antialias`ed in floats, or of bytes without it as `opencv` does.
        output_norms: whether batch norm follows the pyramid's outputs and the box head's
            convolutions at all.
        separate_convs: convolutions after `box_convs`, and fully connected layers, that boxes and
            embeddings each have of their own; 0 lets them share all.
    """

    backbone: str = "resnet50"
    image_size: int = 1024
    levels: tuple[int, ...] = (2, 3, 4, 5, 6)
    channels: int = 256
    rpn_convs: int = 2
    box_convs: int = 4
    box_fcs: int = 2
    mask_convs: int = 4
    fc_width: int = 1024
    anchor_scale: float = 8.0
    roi_samples: int = 2
    anchor_ratios: tuple[float, ...] = (1.0, 2.0, 0.5)
    norm_momentum: float = 0.003
    norm_eps: float = 1e-4
    pixel_mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    pixel_std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    norms: tuple[str, ...] = ("rpn", "fc", "mask")
    extra_levels: Literal["convolution", "subsample"] = "convolution"
    pooled_levels: tuple[int, ...] | None = None
    roi_aligned: bool = False
    anchor_offset: float = 0.5
    clamp_shrinking: bool = False
    min_proposal_side: float = 0.0
    short_side: int | None = None
    resize: Literal["antialias", "opencv"] = "antialias"
    output_norms: bool = True
    separate_convs: int = 0

    @property
    def pooled(self) -> tuple[int, ...]:
        return self.pooled_levels or self.levels

    @property
    def stride(self) -> int:
        """Coarsest stride of a pooled level; canvases are padded to a multiple of it."""
        return int(2 ** max(self.pooled))

    def as_dict(self) -> dict[str, Any]:
        """What came later is named where it is unusual alone: older models keep their identity."""
        values = asdict(self)
        for field in fields(self):
            if field.name in _LATER and values[field.name] == field.default:
                del values[field.name]
        return values


ARCHITECTURES: dict[str, Architecture] = {
    "resnet50": Architecture(),
    "resnet152": Architecture(backbone="resnet152"),
    "efficientnet_b7": Architecture(backbone="efficientnet_b7"),
    # For the small world and the tests: 192-pixel scenes whose objects are 24 to 72 pixels.
    "small": Architecture(
        backbone="small",
        image_size=192,
        levels=(2, 3, 4),
        channels=64,
        rpn_convs=1,
        box_convs=2,
        box_fcs=1,
        mask_convs=2,
        fc_width=256,
        roi_samples=1,
        norm_momentum=0.05,
    ),
    # The re-implementation in mmdetection whose weights DetPro's authors released: docs/detpro.md.
    "detpro": Architecture(
        backbone="resnet50_caffe",
        image_size=1333,
        short_side=800,
        resize="opencv",
        norms=("lateral",),
        extra_levels="subsample",
        pooled_levels=(2, 3, 4, 5),
        rpn_convs=1,
        box_fcs=1,
        roi_samples=0,
        roi_aligned=True,
        anchor_ratios=(0.5, 1.0, 2.0),
        anchor_offset=0.0,
        clamp_shrinking=True,
        min_proposal_side=1e-3,
        norm_momentum=0.1,
        norm_eps=1e-5,
    ),
}


# mmdetection's Mask R-CNN without norms of its own, and EZSD's head on it.
ARCHITECTURES["ezsd"] = replace(
    ARCHITECTURES["detpro"],
    backbone="resnet50",
    norms=(),
    output_norms=False,
    box_convs=3,
    separate_convs=1,
    box_fcs=2,
)


def architecture_from_dict(values: dict[str, Any]) -> Architecture:
    """Read what `as_dict` wrote (lists for tuples, as JSON has them).

    Raises:
        ModelError: a key that this version does not know.
    """
    unknown = sorted(set(values) - {field.name for field in fields(Architecture)})
    if unknown:
        raise ModelError(
            f"Unknown architecture keys: {', '.join(unknown)}.", hint="Update vildcli."
        )
    read: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    return Architecture(**read)
