"""Opening a labelling run: a folder that is new, continued, or done. No torch.

Written once: `run.json`, `vocabulary.yaml`. The plan follows the sources: a file that changed has
its unit redone; files that turned up are reported, and appended when asked for.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, Literal

from vildcli.errors import RunError
from vildcli.labelling.copies import find_copies
from vildcli.labelling.plan import (
    PLAN_FILE,
    WHOLE,
    PlannedImage,
    Shard,
    compare_plan,
    make_plan,
    read_plan,
    source_roots,
    write_plan,
)
from vildcli.labelling.records import (
    FAILED,
    RECORD_FORMAT,
    ImageRecord,
    is_done,
    iter_images,
    part_path,
)
from vildcli.labelling.sources import FoundImage, FoundImages, Key
from vildcli.runs import open_run, read_run, write_atomically, writing
from vildcli.vocabulary.category import Vocabulary
from vildcli.vocabulary.files import save_vocabulary

KIND = "labelling"
VOCABULARY_FILE = "vocabulary.yaml"
FAILED_FILE = "failed.jsonl"


@dataclass(frozen=True, slots=True)
class LabellingRun:
    """A run folder ready for `label_images`, and what was found in it.

    Attributes:
        state: new; continued, with units left to do; complete.
        done_units: units that need no work.
        changed: planned images whose file is another now; their units will be redone.
        added, new: images found now that were not planned; appended, or only reported.
        vanished: planned images whose file is gone.
    """

    folder: Path
    state: Literal["new", "continued", "complete"]
    plan: tuple[PlannedImage, ...]
    done_units: frozenset[int]
    changed: int = 0
    added: int = 0
    new: int = 0
    vanished: int = 0

    def units_left(self, shard: Shard = WHOLE) -> frozenset[int]:
        """Units of a shard that are still to be labelled."""
        units = {image.unit for image in self.plan if shard.holds(image.unit)}
        return frozenset(units) - self.done_units

    def left(self, shard: Shard = WHOLE) -> int:
        """Images of those units."""
        units = self.units_left(shard)
        return sum(image.unit in units for image in self.plan)


def open_labelling_run(
    out: Path,
    found: FoundImages,
    settings: Mapping[str, Any],
    vocabulary: Vocabulary,
    *,
    arguments: Mapping[str, Any] | None = None,
    force: bool = False,
    add_new: bool = False,
    limit: int | None = None,
    wanted: Callable[[FoundImage], bool] = lambda image: True,
    dedupe: bool = False,
    apart: Collection[Key] = frozenset(),
) -> LabellingRun:
    """Start a run in `out`, or continue the one there.

    Args:
        out: absent, empty, or a run of the same settings and sources.
        found: the images, as listed now.
        settings: everything that decides the labels; the record format is added.
        vocabulary: saved beside the records: what category ids stand for.
        arguments: everything else worth remembering.
        force: delete another vildcli folder there first.
        add_new: append images that the plan does not have.
        limit: most images that the plan may have.
        wanted: which of the images that are not planned yet may be.
        dedupe: look at one of several files of the same bytes only; decided when they are planned.
        apart: images that have no copies, whatever their bytes: people drew on them.

    Raises:
        RunError: `out` holds something else, cannot be written, or holds the images themselves.
    """
    if force:
        _keep_sources(out, found)
    state = open_run(
        out,
        kind=KIND,
        settings=labelling_settings(settings),
        arguments={**(arguments or {}), **_said_of_sources(found)},
        force=force,
    )
    _refuse_other_sources(out, found)
    try:
        if not (out / VOCABULARY_FILE).exists():
            save_vocabulary(vocabulary, out / VOCABULARY_FILE)
        if not (out / PLAN_FILE).exists():
            images = [image for image in found.images if wanted(image)][:limit]
            copies = _copies(images, found, apart) if dedupe else {}
            write_plan(out, make_plan(images, copies=copies), first=True)
            return _opened(out, "new" if state == "started" else "continued", read_plan(out))
        copies_of = partial(_copies, found=found, apart=apart) if dedupe else None
        return _continue(
            out, found, add_new=add_new, limit=limit, wanted=wanted, copies_of=copies_of
        )
    except OSError as error:
        raise _unwritable(out, error) from error


def labelling_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What the fingerprint of a labelling run covers."""
    return {**settings, "record_format": RECORD_FORMAT}


def check_out(out: Path) -> None:
    """Refuse early, before a model is loaded, what could never be written or continued.

    Raises:
        RunError: not a folder, held by something else, of a newer format, or not writable.
    """
    if out.is_dir() and any(out.iterdir()):
        read_run(out, KIND)
    parent = next(p for p in (out, *out.absolute().parents) if p.exists())
    if not parent.is_dir():
        raise RunError(f"{parent} is not a folder.", hint="Choose another --out.")
    if not os.access(parent, os.W_OK):
        raise _unwritable(out, PermissionError("no permission to write"))


def write_failures(run: Path) -> tuple[ImageRecord, ...]:
    """List the failed images of a run, also as one JSON object a line in `failed.jsonl`."""
    failed = tuple(image for image in iter_images(run) if image.status == FAILED)
    file = run / FAILED_FILE
    if not failed:
        file.unlink(missing_ok=True)
        return ()
    rows = [
        {k: asdict(image)[k] for k in ("image_id", "source", "path", "reason")} for image in failed
    ]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    with writing(run):
        write_atomically(file, lambda path: _write_text(path, text))
    return failed


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _keep_sources(out: Path, found: FoundImages) -> None:
    folder = out.resolve()
    for root in found.roots.values():
        if folder in (root.resolve(), *root.resolve().parents):
            raise RunError(
                f"{out} holds the images themselves ({root}), so --force does not delete it.",
                hint="Choose another --out.",
            )


def _said_of_sources(found: FoundImages) -> dict[str, Any]:
    said: dict[str, Any] = {"sources": {k: str(v) for k, v in found.roots.items()}}
    return said if found.every is None else {**said, "every": str(found.every)}


def _refuse_other_sources(out: Path, found: FoundImages) -> None:
    there = source_roots(out)
    every = read_run(out, KIND)["arguments"].get("every")
    if every is not None and found.every is not None and Fraction(every) != found.every:
        raise RunError(
            f"{out} labels other frames (every {every} s there, every {found.every} s now).",
            hint="Choose another --out, or the same --every.",
        )
    if dict(there) != found.roots:
        was, now = (", ".join(map(str, roots.values())) for roots in (there, found.roots))
        raise RunError(
            f"{out} labels other sources ({was} there, {now} now).",
            hint="Choose another --out; a run keeps the sources it was started with.",
        )


def _copies(
    images: Sequence[FoundImage | PlannedImage], found: FoundImages, apart: Collection[Key]
) -> dict[Key, Key]:
    """For each image that is a copy of an earlier one, the key of that."""
    others = [image for image in images if image.key not in apart]
    return find_copies(others, lambda image: found.roots[image.source] / image.path)


def _continue(
    out: Path,
    found: FoundImages,
    *,
    add_new: bool,
    limit: int | None,
    wanted: Callable[[FoundImage], bool],
    copies_of: Callable[[Sequence[FoundImage | PlannedImage]], dict[Key, Key]] | None,
) -> LabellingRun:
    plan = read_plan(out)
    changes = compare_plan(plan, found.images)
    room = None if limit is None else max(0, limit - len(plan))
    new = [image for image in changes.new if wanted(image)][:room]
    # Marks first: killed between the two, the next call sees the change again.
    for unit in {image.unit for image in changes.changed}:
        part_path(out, "images", unit).unlink(missing_ok=True)
    updated = {image.image_id: image for image in changes.changed}
    followed = tuple(updated.get(image.image_id, image) for image in plan)
    if add_new:
        copies = copies_of([*followed, *new]) if copies_of else {}
        followed += make_plan(new, after=followed, copies=copies)
    if followed != plan:
        write_plan(out, followed)
    return _opened(
        out,
        "continued",
        followed,
        changed=len(changes.changed),
        added=len(new) if add_new else 0,
        new=0 if add_new else len(new),
        vanished=len(changes.vanished),
    )


def _opened(
    out: Path,
    state: Literal["new", "continued"],
    plan: tuple[PlannedImage, ...],
    **changes: int,
) -> LabellingRun:
    units = {image.unit for image in plan}
    done = frozenset(unit for unit in units if is_done(out, unit))
    return LabellingRun(out, "complete" if done == units else state, plan, done, **changes)


def _unwritable(out: Path, error: OSError) -> RunError:
    return RunError(
        f"{out} cannot be written: {error.strerror or error}.",
        hint="Make room, change the folder's permissions, or choose another --out.",
    )
