"""What is merged: labelling runs, and annotation sets of people or of other tools."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vildcli.data.lvis import AnnotationSet, annotation_set, read_content
from vildcli.data.voc import is_voc, read_voc
from vildcli.errors import RunError
from vildcli.export.writing import export_header
from vildcli.labelling.records import OK, RECORD_FORMAT
from vildcli.labelling.thresholds import RunView, view_run
from vildcli.runs import RUN_FILE, file_sha256, read_run, refuse_newer
from vildcli.vocabulary.category import Category

KIND = "labelling"
REVIEWED_RUNS = "reviewed_runs"  # of an image of a merged file


@dataclass(frozen=True, slots=True)
class RunInput:
    """A labelling run to merge; of one that is not complete, its finished units.

    Attributes:
        name: of no other input.
        header: its `run.json`.
    """

    name: str
    path: Path
    view: RunView
    header: Mapping[str, Any]

    @property
    def settings(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.header["settings"]
        return found

    @property
    def fingerprint(self) -> str:
        return str(self.header["fingerprint"])

    @property
    def categories(self) -> tuple[Category, ...]:
        return self.view.vocabulary.categories

    def category_rows(self) -> dict[int, dict[str, Any]]:
        return {}

    def annotation_ids(self) -> list[int]:
        return []

    def notes(self) -> list[str]:
        """What a person should know of it."""
        failed = sum(image.status != OK for image in self.view.images())
        notes = [f"{self.path} has {failed} failed image{'s' * (failed > 1)}."] if failed else []
        if not self.view.is_complete:
            notes.append(f"{self.path} is not complete: {self.view.progress_text}.")
        return notes

    def said(self) -> dict[str, Any]:
        """What the result remembers of it."""
        return {
            "source": self.name,
            "kind": "labelling run",
            "fingerprint": self.fingerprint,
            "vocabulary": self.view.vocabulary.name,
        }


@dataclass(frozen=True, slots=True)
class SetInput:
    """An annotation set to merge.

    Attributes:
        name: of no other input.
        content: its JSON value in COCO's or LVIS's form.
        annotations: the same, typed and checked.
    """

    name: str
    path: Path
    content: Mapping[str, Any]
    annotations: AnnotationSet

    @property
    def categories(self) -> tuple[Category, ...]:
        return self.annotations.categories

    def reviewed(self) -> dict[int, frozenset[str]]:
        """Fingerprints of the runs that people went through on each image.

        `review --pull` says it of a whole file, an earlier merge image by image.
        """
        info = self.content.get("info")
        is_pulled = isinstance(info, dict) and info.get("reviewed") is True and "run" in info
        whole = [info["run"]] if is_pulled and info is not None else []
        return {
            row["id"]: frozenset(map(str, [*whole, *(row.get(REVIEWED_RUNS) or ())]))
            for row in self.content["images"]
        }

    def category_rows(self) -> dict[int, dict[str, Any]]:
        """Its own objects of its categories, by their ids in it."""
        return {row["id"]: row for row in self.content["categories"]}

    def annotation_ids(self) -> list[int]:
        return [row["id"] for row in self.content["annotations"]]

    def notes(self) -> list[str]:
        return []

    def said(self) -> dict[str, Any]:
        """What the result remembers of it, and of what it was merged from itself."""
        info = self.content.get("info")
        earlier = info.get("inputs") if isinstance(info, dict) else None
        return {
            "source": self.name,
            "kind": "annotation set",
            "file": self.path.name,
            **({} if self.path.is_dir() else {"sha256": file_sha256(self.path)}),
            **({"inputs": earlier} if earlier else {}),
        }


Input = RunInput | SetInput


def open_inputs(paths: Sequence[Path], *, conf: float | None = None) -> list[Input]:
    """Open what is to be merged, in the order given.

    Args:
        paths: labelling runs; COCO or LVIS JSON files; folders, lists or files of VOC.
        conf: score from which labels of runs are shown, as for `view_run`.

    Raises:
        RunError: one path twice, a folder that is no labelling run, or a newer format.
        DataError: a file that is no annotation set, or not a whole one.
    """
    seen: set[Path] = set()
    for path in paths:
        if path.resolve() in seen:
            raise RunError(f"{path} is given twice.", hint="Name each run and file once.")
        seen.add(path.resolve())
    named = zip(paths, _names(paths), strict=True)
    return [_open(path, name, conf) for path, name in named]


def runs_only(inputs: Sequence[Input], out: Path) -> list[RunInput]:
    """The inputs, where all of them can go into a labelling run.

    Raises:
        RunError: one holds annotations.
    """
    if others := [source for source in inputs if not isinstance(source, RunInput)]:
        raise RunError(
            f"{others[0].path} holds people's labels, and a labelling run holds what a machine "
            "found.",
            hint=f"Name an annotation file as --out, such as {out.name}.json.",
        )
    return [source for source in inputs if isinstance(source, RunInput)]


def is_run_folder(path: Path) -> bool:
    return (path / RUN_FILE).is_file()


def _open(path: Path, name: str, conf: float | None) -> Input:
    if export_header(path) is not None:
        raise RunError(
            f"{path} is an export of a run.",
            hint="Merge the run itself, or what people made.",
        )
    if is_run_folder(path):
        header = read_run(path, KIND)
        written = int(header["settings"].get("record_format", RECORD_FORMAT))
        refuse_newer(path, written, RECORD_FORMAT, RunError)
        return RunInput(name, path, view_run(path, conf=conf), header)
    content = read_voc(path) if is_voc(path) else read_content(path)
    return SetInput(name, path, content, annotation_set(content, path))


def _names(paths: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell them apart, without the suffixes of files."""
    whole = [path.resolve() if path.is_dir() else path.resolve().with_suffix("") for path in paths]
    for depth in range(1, max(len(path.parts) for path in whole) + 1):
        names = ["/".join(path.parts[-depth:]) for path in whole]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]  # a.json beside a.xml
