"""The detector's shape as data: what a model file must say so that its weights can be read back."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from vildcli.errors import ModelError


@dataclass(frozen=True, slots=True)
class Architecture:
    """Sizes and options of backbone, pyramid and heads; the defaults are ViLD's published ones.

    Attributes:
        backbone: resnet50 or small.
        image_size: side of the square an image is fitted into, pixels.
        levels: pyramid levels; level l has stride 2**l. Levels above the backbone's last are
            stride-2 convolutions.
        channels: width of the pyramid and of every head's convolutions.
        rpn_convs, box_convs, box_fcs, mask_convs: depth of the heads; each layer is normalised.
        fc_width: width of the box head's fully connected layers.
        anchor_scale: anchor side in strides.
        roi_samples: RoIAlign's samples a cell, each way.
        norm_momentum, norm_eps: batch norm, in PyTorch's sense of momentum.
        pixel_mean, pixel_std: of RGB in 0-1.
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

    @property
    def stride(self) -> int:
        """Coarsest stride; canvases are padded to a multiple of it."""
        return int(2 ** max(self.levels))

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


ARCHITECTURES: dict[str, Architecture] = {
    "resnet50": Architecture(),
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
}


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
