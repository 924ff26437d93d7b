from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from stub_model import StubDetector, StubModel, draw_images

from vildcli.cli import run
from vildcli.errors import ModelError
from vildcli.labelling.options import LabellingOptions
from vildcli.labelling.records import done_units, iter_images, iter_labelled_images, read_part
from vildcli.labelling.tiles import Tiling


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["vildcli"])
    monkeypatch.setenv("VILDCLI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("vildcli.console._format", "text")
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
    [time] = re.findall(r"Time: (.+)\n", shown.err)
    shares = dict(reversed(share.split("% ")) for share in time.split(", "))
    assert set(shares) == {"decode", "forward", "score", "masks", "write"}
    assert 97 <= sum(map(int, shares.values())) <= 103
    assert re.search(r"Labelling: 20/20  [\d.]+ images/s; \d+% ", shown.err)
    assert re.search(r"Labelling: 8/20  [\d.]+ images/s, about \d+ s left; \d+% ", shown.err)
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
    assert detect("photos", "--out", "run2", "--log-format", "json") == 130
    lines = capsys.readouterr().err.splitlines()  # click ends the line that ^C stands on
    log = [json.loads(line) for line in lines if line]
    assert log[-1]["text"].startswith("Interrupted; ")
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


def test_detect__dry_run_measures_and_writes_nothing(
    photos: Path, opened: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert detect("photos", "--dry-run", "--keep-regions", "--out", "run", "--json") == 0
    shown = capsys.readouterr()
    assert "A run would label 20 images in 2 units." in shown.err
    took = r"It would take about \d+ s \(measured on 8 images of these, on cpu\)\."
    assert re.search(took, shown.err)
    assert re.search(r"It would store \d+ KiB; \d+ KiB without embeddings, ", shown.err)
    said = json.loads(shown.out)
    assert (said["images"], said["units"], said["copies"], said["skipped"]) == (20, 2, 0, 0)
    assert said["seconds"] > 0
    sizes = said["bytes"]
    assert sizes["without_embeddings"] < sizes["int8"] < sizes["float16"]
    assert opened[0]["options"].offline
    assert not Path("run").exists()


def test_detect__dry_run_of_a_run_that_is_half_done(
    photos: Path, opened: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert detect("photos", "--out", "run", "--shard", "1/2") == 0
    capsys.readouterr()
    assert detect("photos", "--out", "run", "--dry-run") == 0
    shown = capsys.readouterr().err
    assert "A run would label 4 images in 1 unit." in shown
    assert "16 other images of the run are done, or of another shard." in shown


def test_detect__dry_run_without_a_model_goes_by_the_last_rate(
    photos: Path,
    opened: list[dict[str, Any]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> StubModel:
        raise ModelError("There are no weights.")

    module = sys.modules["vildcli.labelling.model"]
    opening = module.open_labelling_model
    monkeypatch.setattr(module, "open_labelling_model", refuse)
    assert detect("photos", "--dry-run") == 0
    why = "no model could be opened, and a dry run downloads nothing: There are no weights"
    assert f"How long it would take is not known: {why}.\n" in capsys.readouterr().err
    monkeypatch.setattr(module, "open_labelling_model", opening)
    detect("photos", "--out", "run")
    monkeypatch.setattr(module, "open_labelling_model", refuse)
    capsys.readouterr()
    assert detect("photos", "--dry-run", "--json") == 0
    shown = capsys.readouterr()
    assert re.search(r"It would take about \d+ s \(as a run of 2", shown.err)
    assert f"20 images; {why}).\n" in shown.err
    assert json.loads(shown.out)["bytes"] is None
    assert detect("photos", "--dry-run", "--regions", "5", "--json") == 0
    assert json.loads(capsys.readouterr().out)["seconds"] is None


def test_detect__options_reach_the_model(photos: Path, opened: list[dict[str, Any]]) -> None:
    options = ("--tile", 1024, "--tile-overlap", 0.3, "--precision", "bf16", "--nms", "none")
    assert detect("photos", "--out", "run", *options, "--region-dtype", "int8") == 0
    assert opened[0]["options"] == LabellingOptions(
        tiling=Tiling(1024, 0.3), precision="bf16", region_dtype="int8", nms="none"
    )
    assert detect("photos", "--out", "run2", "--tile", 64) == 0
    assert opened[1]["options"] == LabellingOptions(tiling=Tiling(64, 0.2))


def test_detect__int8_regions_are_stored(photos: Path, opened: list[dict[str, Any]]) -> None:
    assert detect("photos", "--out", "run", "--keep-regions", "--region-dtype", "int8") == 0
    kind = read_part(Path("run"), "regions", 0).schema.field("text_side").type
    assert kind.value_type == "int8"


def test_detect__batch_auto_goes_on_where_memory_runs_out(
    photos: Path,
    opened: list[dict[str, Any]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    regions = StubDetector.regions

    def too_many(self: StubDetector, images: Any) -> Any:
        if len(images) > 2:
            raise MemoryError
        return regions(self, images)

    monkeypatch.setattr(StubDetector, "regions", too_many)
    assert detect("photos", "--out", "run") == 0
    shown = capsys.readouterr().err
    assert "Warning: Memory ran out at 8 images a batch; it goes on with 4." in shown
    assert "Warning: Memory ran out at 4 images a batch; it goes on with 2." in shown
    assert detect("photos", "--out", "run2", "--batch", 4) == 1
    assert "Give a smaller --batch, or --batch auto" in capsys.readouterr().err


def test_detect__a_sample_stays_the_same(
    photos: Path, opened: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert detect("photos", "--out", "run", "--sample", 5) == 0
    first = [image.path for image in iter_images(Path("run"))]
    assert len(first) == 5
    assert first != [f"{i:04d}.png" for i in range(5)]
    draw_images(photos / "more", 20)
    capsys.readouterr()
    assert detect("photos", "--out", "run", "--sample", 5) == 0
    shown = capsys.readouterr().err
    assert "run is already done." in shown
    assert "--add-new" not in shown
    header = json.loads(Path("run/run.json").read_text())
    assert header["arguments"]["sample"] == {"images": 5, "seed": 0}
    assert detect("photos", "--out", "run", "--sample", 8, "--add-new") == 0
    grown = [image.path for image in iter_images(Path("run"))]
    assert grown[:5] == first
    assert len(grown) == 8
    assert detect("photos", "--out", "other", "--sample", 5, "--seed", 1) == 0
    assert [image.path for image in iter_images(Path("other"))] != first


def test_detect__dedupe_copies_labels_and_duplicates_are_told(
    photos: Path, opened: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("x", "y"):
        shutil.copyfile(photos / "0003.png", photos / f"{name}.png")
    assert detect("photos", "--out", "run", "--dedupe") == 0
    shown = capsys.readouterr().err
    assert "Labels are copied to 2 images of the same bytes." in shown
    assert "Copies: 2 exact, 0 near, listed in run/duplicates.jsonl\n" in shown
    groups = [json.loads(line) for line in Path("run/duplicates.jsonl").read_text().splitlines()]
    assert [group["paths"] for group in groups] == [
        ["photos/0003.png", "photos/x.png", "photos/y.png"]
    ]
    labels = {
        i.image.path: [row.box for row in i.labels] for i in iter_labelled_images(Path("run"))
    }
    assert len(labels) == 22
    assert labels["x.png"] == labels["0003.png"] != labels["0004.png"]


def test_detect__says_where_near_duplicates_are_not_looked_for(
    photos: Path,
    opened: list[dict[str, Any]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("vildcli.labelling.duplicates.MOST", 19)
    assert detect("photos", "--out", "run") == 0
    said = "Copies: 0 exact; near ones are not looked for: there are more than 19 images\n"
    assert said in capsys.readouterr().err


def test_detect__copies_whose_originals_another_shard_has_are_left_to_a_second_call(
    photos: Path, opened: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copyfile(photos / "0018.png", photos / "x.png")  # 0018 is in unit 1, its copy in unit 2
    first = ("photos", "--out", "run", "--dedupe", "--shard", "1/2")
    assert detect(*first) == 0
    shown = capsys.readouterr().err
    assert "1 image left, copies of images that another process labels: run it again." in shown
    assert "Copies: " not in shown
    assert detect("photos", "--out", "run", "--dedupe", "--shard", "2/2") == 0
    assert done_units(Path("run")) == [0, 1]
    assert detect(*first) == 0
    assert done_units(Path("run")) == [0, 1, 2]
    assert "Copies: 1 exact, 0 near" in capsys.readouterr().err


def test_detect__json_log_is_one_object_a_line(
    photos: Path, opened: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "bad.jpg").touch()
    assert detect("photos", "--out", "run", "--log-format", "json") == 3
    shown = capsys.readouterr()
    assert shown.out == ""
    log = [json.loads(line) for line in shown.err.splitlines()]
    assert all("time" in line for line in log)
    events = [line["event"] for line in log]
    assert events[0] == "message"
    assert {"start", "progress", "table", "end"} <= set(events)
    start, end = (next(e for e in log if e["event"] == name) for name in ("start", "end"))
    assert (start["state"], start["images"], start["units"]) == ("new", 21, 2)
    assert (end["labelled"], end["failed"]) == (20, 1)
    progress = [line for line in log if line["event"] == "progress"]
    assert (progress[-1]["done"], progress[-1]["total"]) == (21, 21)
    assert set(progress[-1]["shares"]) == {"decode", "forward", "score", "masks", "write"}
    assert sum(progress[-1]["shares"].values()) == pytest.approx(1, abs=0.01)
    assert progress[0]["seconds_left"] > 0
    detect("photos", "--out", "run", "--log-format", "json", "--keep-regions")
    (*_, error) = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert (error["event"], "keep_regions" in error["text"]) == ("error", True)


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
    "tile overlap": (
        ("photos", *FRUIT, "--tile-overlap", "0.1"),
        2,
        "Error: --tile-overlap is for --tile.\n",
    ),
    "existing": (("photos", *FRUIT, "--existing", "skip"), 2, "--existing is for --labels.\n"),
    "two ways to name devices": (
        ("photos", *FRUIT, "--device", "cpu", "--devices", "0,1"),
        2,
        "Error: Give either --device D or --devices D,D.\n",
    ),
    "devices": (
        ("photos", *FRUIT, "--devices", "0;1"),
        2,
        "'0;1' is no list of devices, such as 0,1 or cpu,cpu.\n",
    ),
    "batch": (
        ("photos", *FRUIT, "--batch", "0"),
        2,
        "'0' is neither a number of images nor auto.\n",
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
        "What to look for:", "Model:", "Which labels are kept:", "Which images:",
        "Labels that people made:", "Run:", "Output:",
    ]  # fmt: skip
    assert [line for line in shown.splitlines() if line in headings] == headings
    assert 'vildcli detect photos --classes "apple, pear"' in shown
