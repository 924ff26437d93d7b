"""Parting the images of an export, such as into train and val."""

from __future__ import annotations

from dataclasses import dataclass

from vildcli.labelling.records import ImageRecord


@dataclass(frozen=True, slots=True)
class Split:
    """Names of parts and their shares of the images, which add up to 1.

    An image's part follows from its bytes alone: it stays there when images are added, moved or
    renamed, and equal files are never parted.
    """

    shares: tuple[tuple[str, float], ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.shares)

    def part_of(self, image: ImageRecord) -> str:
        place = int(image.sha256[:13], 16) / 16**13
        reached = 0.0
        for name, share in self.shares:
            reached += share
            if place < reached:
                return name
        return self.names[-1]  # the shares' sum is not quite 1 in floating point
