"""Every published system is one row of this table; adding a system is adding a row.

The rows differ only in where the text-side and the image-side region embeddings come from, in what
is trained, and in how the two scores are fused. Backbone, teacher, prompts and vocabulary are
arguments, orthogonal to the row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any, Literal

from vildcli.errors import ModelError


@dataclass(frozen=True, slots=True)
class System:
    """One row.

    Attributes:
        text_side: whose embedding is scored with background, trained by cross-entropy; `student`
            against text embeddings, `classifier` a learned linear one over the trained categories
            alone (closed set).
        image_side: whose embedding is scored without background; `shared` is the text side's own
            head, distilled as well; `teacher` is the vision-language model on crops.
        distilled: whether the L1 distillation loss is trained.
        fusion: `text` and `image` take that side's softmax, `classifier` the linear classifier's;
            `ensemble` is the geometric mean of ViLD §3.4.
        words: what embeds the names that regions are compared with; None in a closed set.
        repeat_factors: whether images of rare categories are repeated (LVIS §4).
        semantic_boxes: whether the name of a region has a say in its box (EZSD, semantic-based
            regression).
        learned_temperature: whether τ is learned, starting from the text encoder's.
        free_background: whether the length of the background embedding counts; it is 1 otherwise.
        teacher_regions: whether the teacher's own choice of regions is distilled where nobody says
            otherwise (EZSD), instead of a detector's proposals.
        prompts: sentences around names, where nobody chooses others and the encoder reads any.
        class_loss: `seesaw` evens out a long tail, and tells background apart by two logits of its
            own (Seesaw loss, p = 0.8, q = 2).
    """

    name: str
    summary: str
    text_side: Literal["student", "classifier", None]
    image_side: Literal["student", "shared", "teacher", None]
    distilled: bool
    fusion: Literal["text", "image", "ensemble", "classifier"]
    words: Literal["clip", "glove", None] = "clip"
    repeat_factors: bool = False
    semantic_boxes: bool = False
    learned_temperature: bool = False
    free_background: bool = False
    class_loss: Literal["softmax", "seesaw"] = "softmax"
    teacher_regions: bool = False
    prompts: str | None = None

    @property
    def trained(self) -> bool:
        """Whether `vildcli train` makes it; what asks the teacher itself is put together later."""
        return self.image_side != "teacher"


_CLOSED_SET = System(
    "supervised", "linear classifier, closed set", "classifier", None, False, "classifier", None
)

SYSTEMS: dict[str, System] = {
    row.name: row
    for row in (
        _CLOSED_SET,
        replace(
            _CLOSED_SET,
            name="supervised-rfs",
            summary="the same, rare images repeated",
            repeat_factors=True,
        ),
        System("glove", "cross-entropy against GloVe", "student", None, False, "text", "glove"),
        System("vild-text", "cross-entropy against text", "student", None, False, "text"),
        System("vild-image", "L1 distillation, no class loss", None, "student", True, "image"),
        System("vild", "both losses, one head", "student", "shared", True, "text"),
        System("vild-ensemble", "both losses, two heads", "student", "student", True, "ensemble"),
        System(
            "vild-text-clip",
            "text head + teacher on crops",
            "student",
            "teacher",
            False,
            "ensemble",
        ),
        System("clip-on-crops", "the teacher on crops, untrained", None, "teacher", False, "image"),
        System(
            "ezsd",
            "adapted teacher, its own regions, boxes that read the name",
            "student",
            "shared",
            True,
            "text",
            semantic_boxes=True,
            learned_temperature=True,
            free_background=True,
            teacher_regions=True,
            prompts="ezsd",
        ),
    )
}

# What may be chosen besides the row.
VARIABLE = ("semantic_boxes", "learned_temperature", "free_background", "class_loss")


def find_system(name: str) -> System:
    """The row of that name.

    Raises:
        ModelError: no such row; names the nearest.
    """
    if name not in SYSTEMS:
        near = get_close_matches(name, SYSTEMS, n=1)
        raise ModelError(
            f"There is no system '{name}'.",
            hint=f"Did you mean '{near[0]}'?" if near else f"Systems: {', '.join(SYSTEMS)}.",
        )
    return SYSTEMS[name]


def vary(system: System, changes: Mapping[str, Any]) -> System:
    """The row with some of `VARIABLE` changed.

    Raises:
        ModelError: the row compares no regions with words, so that there is nothing to change.
    """
    different = {name: value for name, value in changes.items() if getattr(system, name) != value}
    assert set(changes) <= set(VARIABLE), f"{set(changes)} may not all be changed"
    if different and system.text_side != "student":
        raise ModelError(
            f"{system.name} is not trained against words, so it has no "
            f"{', '.join(name.replace('_', ' ') for name in different)} to choose.",
            hint="Leave it out, or train vild-text, vild, vild-ensemble or ezsd.",
        )
    return replace(system, **different)
