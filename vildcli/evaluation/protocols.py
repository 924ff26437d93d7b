"""The protocols that published numbers follow, one row each. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from vildcli.vocabulary.category import FREQUENCIES


@dataclass(frozen=True, slots=True)
class Protocol:
    """One row.

    Attributes:
        rules: whose average precision; `split` is COCO's at IoU 0.5, over the groups apart.
        vocabulary: shipped vocabulary of the data set.
        masks: whether masks are evaluated where the truth has them; boxes always are.
        groups: categories that are averaged apart: a shipped vocabulary each, or LVIS frequencies.
        novel: the group that zero-shot is about; None where that is up to the model.
        only_groups: whether names and images without any of the groups are left out.
    """

    name: str
    rules: Literal["lvis", "coco", "voc", "split"]
    vocabulary: str
    masks: bool = False
    groups: Mapping[str, str] = field(default_factory=dict)
    novel: str | None = None
    only_groups: bool = False


PROTOCOLS: dict[str, Protocol] = {
    row.name: row
    for row in (
        Protocol(
            "lvis",
            "lvis",
            "lvis-v1",
            masks=True,
            groups=dict(zip(("rare", "common", "frequent"), FREQUENCIES, strict=True)),
            novel="rare",
        ),
        Protocol("coco", "coco", "coco", masks=True),
        # All 65 names compete, on images with at least one of them.
        Protocol(
            "coco-48-17",
            "split",
            "coco",
            groups={"novel": "coco-17", "base": "coco-48"},
            novel="novel",
            only_groups=True,
        ),
        # All 80 names compete, on every image.
        Protocol(
            "coco-65-15",
            "split",
            "coco",
            groups={"unseen": "coco-15", "seen": "coco-65"},
            novel="unseen",
        ),
        Protocol("voc", "voc", "voc"),
        Protocol("objects365", "coco", "objects365"),
    )
}
