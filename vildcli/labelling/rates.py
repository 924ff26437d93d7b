"""How long an image took lately, by what decides it: for forecasts where no model can be opened.

One small file in the cache folder, safe to delete. No torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

from vildcli.assets import cache_folder
from vildcli.runs import fingerprint, write_json

RATES_FILE = "rates.json"


@dataclass(frozen=True, slots=True)
class Rate:
    """What a run took.

    Attributes:
        images: how many it was measured on.
        day: when, YYYY-MM-DD.
    """

    seconds_per_image: float
    images: int
    day: str


def remember_rate(what: Mapping[str, Any], images: int, seconds: float) -> None:
    """Keep the rate of the run that has just ended; a cache that cannot be written is let be.

    Args:
        what: the choices that decide how long an image takes.
    """
    rate = Rate(seconds / images, images, date.today().isoformat())
    try:
        write_json(_file(), {**_read(), fingerprint(what): asdict(rate)})
    except OSError:
        return


def last_rate(what: Mapping[str, Any]) -> Rate | None:
    """The rate of the last run of these choices on this machine."""
    found = _read().get(fingerprint(what))
    return None if found is None else Rate(**found)


def _file() -> Path:
    return cache_folder() / RATES_FILE


def _read() -> dict[str, Any]:
    try:
        content = json.loads(_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
