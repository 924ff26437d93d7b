from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from stub_model import StubDetector, StubModel, draw_images

from vildcli.cli import run
from vildcli.labelling.options import LabellingOptions
from vildcli.labelling.records import done_units


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["vildcli"])
    return draw_images(tmp_path / "photos", 20)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What models were opened with; each is the stub."""
    calls: list[dict[str, Any]] = []
    module = ModuleType("vildcli.labelling.model")

    def open_labelling_model(vocabulary: object, options: LabellingOptions) -> StubModel:
        calls.append({"vocabulary": vocabulary, "options": options})
        return StubModel()

    module.open_labelling_model = open_labelling_model  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vildcli.labelling.model", module)
    return calls


def detect(*arguments: object) -> int:
    return run(["detect", *map(str, arguments), "--classes", "apple, pear"])


def test_detect__labels_shows_and_says_what_is_next(
    photos: Path, opened: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "notes.txt").touch()
    assert detect("photos", "--out", "run") == 0
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "20 images found (1 file skipped: 1 .txt)." in shown.err
    assert "Starting run: 20 images to label in 2 units." in shown.err
    assert shown.err.count("The rest will take about ") == 1
    assert re.search(r"Time: \d+% [a-z ]+, \d+% [a-z ]+, \d+% [a-z ]+; beside it \d+ s", shown.err)
    assert "Contact sheet: run/sheet.png" in shown.err
    assert "Next: vildcli export run --to coco" in shown.err
    assert Path("run/sheet.png").stat().st_size > 0
    assert [category.name for category in opened[0]["vocabulary"].categories] == ["apple", "pear"]
    assert opened[0]["options"] == LabellingOptions()


def test_detect__json_is_one_object_on_stdout(
    photos: Path, opened: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "bad.jpg").write_text("hello")
    assert detect("photos", "--out", "run", "--json") == 3
    summary = json.loads(capsys.readouterr().out)
    assert list(summary) == [
        "run", "images", "labelled", "failed", "skipped", "resumed", "labels",
        "seconds", "images_per_second", "peak_rss_mib",
    ]  # fmt: skip
    assert summary["run"] == str(photos.parent / "run")
    assert (summary["images"], summary["labelled"], summary["failed"]) == (21, 20, 1)
    assert summary["labels"] == 40


def test_detect__failures_are_named_and_the_rest_is_in_a_file(
    photos: Path, opened: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(7):
        (photos / f"bad{i}.jpg").touch()
    assert detect("photos", "--out", "run") == 3
    shown = capsys.readouterr().err
    assert shown.count("Failed: ") == 5
    assert "Failed: bad0.jpg: the file is empty." in shown
    assert "… and 2 more, listed in run/failed.jsonl" in shown


def test_detect__done_is_done(
    photos: Path, opened: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "bad.jpg").touch()
    assert detect("photos", "--out", "run") == 3
    assert detect("photos", "--out", "run", "--json") == 0
    shown = capsys.readouterr()
    assert "run is already done." in shown.err
    assert json.loads(shown.out)["resumed"] == 21


def test_detect__interrupted_then_continued(
    photos: Path,
    opened: list[dict[str, Any]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    regions = StubDetector.regions

    def interrupt(self: StubDetector, images: Any) -> Any:
        if len(self.batches) == 2:  # those of the first unit
            raise KeyboardInterrupt
        return regions(self, images)

    monkeypatch.setattr(StubDetector, "regions", interrupt)
    assert detect("photos", "--out", "run") == 130
    assert "Interrupted; the same command continues where it stopped." in capsys.readouterr().err
    monkeypatch.setattr(StubDetector, "regions", regions)
    assert detect("photos", "--out", "run") == 0
    assert "Continuing run: 4 images to label in 1 unit." in capsys.readouterr().err


def test_detect__default_out_is_named_by_source_and_settings(
    photos: Path, opened: list[dict[str, Any]]
) -> None:
    assert detect("photos") == 0
    (folder,) = Path("runs").iterdir()
    header = json.loads((folder / "run.json").read_text())
    assert folder.name == f"photos-{header['fingerprint'][:8]}"
    assert header["arguments"]["default_conf"] is None


def test_detect__keep_regions_saves_the_head(photos: Path, opened: list[dict[str, Any]]) -> None:
    assert detect("photos", "--out", "run", "--keep-regions") == 0
    assert Path("run/regions/head.safetensors").exists()


def test_detect__shard(photos: Path, opened: list[dict[str, Any]]) -> None:
    assert detect("photos", "--out", "run", "--shard", "2/2") == 0
    assert done_units(Path("run")) == [1]


def test_detect__dry_run_opens_no_model(
    photos: Path, opened: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert detect("photos", "--dry-run", "--keep-regions", "--out", "run") == 0
    shown = capsys.readouterr().err
    assert "A run would label 20 images in 2 units." in shown
    assert "--keep-regions would store up to 12 MiB of embeddings." in shown
    assert opened == []
    assert not Path("run").exists()


FRUIT = ("--classes", "apple")
REFUSALS = {
    "no source": (("gone", *FRUIT), 2, "Error: gone does not exist.\n"),
    "no image": (
        ("docs", *FRUIT),
        2,
        "Error: No image found in docs (3 files skipped: 2 .txt, 1 .json).\n",
    ),
    "no words": (("photos",), 2, 'Give either --vocab V or --classes "apple, pear".\n'),
    "words twice": (
        ("photos", *FRUIT, "--vocab", "coco"),
        2,
        'Give either --vocab V or --classes "apple, pear".\n',
    ),
    "a name twice": (
        ("photos", "--classes", "pear, pear"),
        1,
        "Error: Vocabulary 'classes' has the name pear more than once.\n",
    ),
    "out is something else": (
        ("photos", *FRUIT, "--out", "docs"),
        1,
        "Error: docs is not a labelling run: it has no run.json.\n",
    ),
    "shard": (
        ("photos", *FRUIT, "--shard", "3/2"),
        2,
        "'3/2' is not i/n with i from 1 to n, such as 1/4.\n",
    ),
    "every": (
        ("photos", *FRUIT, "--every", "0"),
        2,
        "'0' is not a number of seconds, such as 0.5 or 1/30.\n",
    ),
}


@pytest.mark.parametrize(("arguments", "code", "message"), REFUSALS.values(), ids=REFUSALS)
def test_detect__refuses_before_a_model_is_opened(
    photos: Path,
    opened: list[dict[str, Any]],
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    code: int,
    message: str,
) -> None:
    Path("docs").mkdir()
    for name in ("a.txt", "b.txt", "c.json"):
        Path("docs", name).touch()
    assert run(["detect", *arguments]) == code
    assert message in capsys.readouterr().err
    assert opened == []


def test_detect__other_settings_are_refused(
    photos: Path, opened: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    detect("photos", "--out", "run")
    capsys.readouterr()
    assert detect("photos", "--out", "run", "--keep-regions") == 1
    assert (
        "Error: run holds a run with other settings (keep_regions: False there, True now).\n"
        "Hint: Choose another --out, use the same settings, or --force to delete it.\n"
    ) in capsys.readouterr().err
    assert detect("photos", "--out", "run", "--keep-regions", "--force") == 0


def test_detect__help_is_grouped(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["detect", "--help"]) == 0
    shown = capsys.readouterr().out
    headings = [
        "What to look for:", "Model:", "Which labels are kept:", "Which images:", "Run:", "Output:",
    ]  # fmt: skip
    assert [line for line in shown.splitlines() if line in headings] == headings
    assert 'vildcli detect photos --classes "apple, pear"' in shown
