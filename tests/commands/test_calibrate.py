from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from PIL import Image
from run_builder import DrawnImage, DrawnLabel, build_run
from stub_model import StubModel, draw_images

from vildcli.cli import run
from vildcli.commands.calibrate import warn_of_foreign_thresholds
from vildcli.labelling.thresholds import view_run
from vildcli.vocabulary.category import Category, Vocabulary
from vildcli.vocabulary.files import load_vocabulary

WORDS = Vocabulary(
    "fruit", (Category(1, "apple", threshold=0.25), Category(2, "pear"), Category(3, "plum"))
)
COUNT = 40
BOX, FAR = (10.0, 10.0, 30.0, 30.0), (50.0, 10.0, 80.0, 40.0)


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """Apples are right from 0.5 on, but for one; two pears, both right; no label of plums."""
    images = []
    for i in range(COUNT):
        labels = [DrawnLabel(1, (i + 1) / (COUNT + 1), BOX)]
        labels += [DrawnLabel(2, 0.8, FAR)] if i < 2 else []
        images.append(DrawnImage(f"{i}.png", (96, 64), labels))
    return build_run(tmp_path / "run", tmp_path / "photos", images, vocabulary=WORDS)


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    apples = [i for i in range(COUNT) if i >= COUNT // 2 and i != COUNT // 2 + 5]
    rows = [(i, 10, BOX) for i in apples] + [(i, 20, FAR) for i in range(2)] + [(0, 30, BOX)]
    content = {
        "images": [
            {"id": i, "file_name": f"{i}.png", "width": 96, "height": 64} for i in range(COUNT)
        ],
        "categories": [
            {"id": 10 * category.id, "name": category.name} for category in WORDS.categories
        ],
        "annotations": [
            {"id": i, "image_id": image, "category_id": category, "iscrowd": 0,
             "bbox": [x1, y1, x2 - x1, y2 - y1]}
            for i, (image, category, (x1, y1, x2, y2)) in enumerate(rows, start=1)
        ],
    }  # fmt: skip
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(content))
    return path


def calibrate(labelled: Path, truth: Path, out: Path, *more: str) -> int:
    return run(["calibrate", str(labelled), "--truth", str(truth), "--out", str(out), *more])


def test_calibrate__writes_a_vocabulary_that_holds_the_target(
    labelled: Path, truth: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "calibrated.yaml"
    assert calibrate(labelled, truth, out, "--target-precision", "0.9", "--json") == 0
    printed = capsys.readouterr()
    values = json.loads(printed.out)
    apple, pear, plum = load_vocabulary(out).categories
    # 14 of 14 from 0.63 on, and ten labels of belief that are as right as these.
    assert apple.threshold == pytest.approx(0.5, abs=0.15)
    assert pear.threshold == plum.threshold == values["terms"][1]["threshold"]
    assert [row["from"] for row in values["terms"]] == ["own", "all", "all"]
    assert values["too_few"] == [2, 3]
    assert (
        "2 terms (pear, plum) have fewer than 20 labels that the truth can judge: the threshold"
        in printed.err
    )
    (row,) = (line.split() for line in printed.err.splitlines() if line.startswith("3 "))
    # Plum has an object and no label: no precision, and a recall of 0.
    assert row[:5] == ["3", "plum", "rare", "0", "1"]
    assert row[-5:] == ["–", "0.000", "–", "0.000", "0.000"]
    table = (tmp_path / "calibrated-thresholds.csv").read_text(encoding="utf-8").splitlines()
    assert len(table) == 4
    with Image.open(tmp_path / "calibrated-reliability.png") as plot:
        assert plot.size[0] > plot.size[1] > 200

    # What is shown at these thresholds is right as often as promised.
    assert run(["calibrate", str(labelled), "--truth", str(truth), "--out", str(out)]) == 1
    assert f"Error: {out} exists." in capsys.readouterr().err
    own = labelled / "vocabulary.yaml"
    assert calibrate(labelled, truth, own, "--force") == 0
    assert view_run(labelled).thresholds[1] == apple.threshold
    capsys.readouterr()
    assert run(["evaluate", str(labelled), "--truth", str(truth), "--json"]) == 0
    terms = {row["name"]: row for row in json.loads(capsys.readouterr().out)["terms"]}
    assert terms["apple"]["precision"] >= 0.9
    assert terms["apple"]["threshold"] == apple.threshold


def test_calibrate__a_target_out_of_reach_is_said(
    tmp_path: Path, truth: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = [
        DrawnImage(f"{i}.png", (96, 64), [DrawnLabel(1, 0.3 + i / 100, BOX)])
        for i in range(COUNT - 1)
    ]
    labelled = build_run(tmp_path / "other", tmp_path / "photos", images, vocabulary=WORDS)
    rows = json.loads(truth.read_text())
    rows["annotations"] = rows["annotations"][::3]
    truth.write_text(json.dumps(rows))
    out = tmp_path / "v.json"
    assert (
        calibrate(labelled, truth, out, "--target-precision", "1", "--method", "temperature") == 0
    )
    err = capsys.readouterr().err
    assert "Warning: 3 terms (apple, pear, plum) have no score that is expected to be right" in err
    assert "in 100% of cases: the threshold is 1, which shows nothing." in err
    assert [category.threshold for category in load_vocabulary(out).categories] == [1, 1, 1]


def test_calibrate__nothing_matches(
    labelled: Path, truth: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads(truth.read_text().replace(".png", ".jpg"))
    truth.write_text(json.dumps(content))
    assert calibrate(labelled, truth, tmp_path / "v.yaml") == 1
    assert f"None of the {COUNT} images of {labelled} is in {truth}." in capsys.readouterr().err
    assert not (tmp_path / "v.yaml").exists()


def test_calibrate__no_label_to_learn_from(
    tmp_path: Path, truth: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = [DrawnImage(f"{i}.png", (96, 64)) for i in range(3)]
    labelled = build_run(tmp_path / "empty", tmp_path / "photos", images, vocabulary=WORDS)
    assert calibrate(labelled, truth, tmp_path / "v.yaml") == 1
    said = "Error: The truth can judge 0 labels of the run; calibration needs 20."
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("name", ["v.csv", "v"])
def test_calibrate__a_file_that_cannot_say_what_it_holds_for(
    labelled: Path, truth: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    out = tmp_path / name
    assert calibrate(labelled, truth, out) == 1
    assert (
        f"Error: {out} has the suffix '{out.suffix}', which cannot say what thresholds hold for."
        in capsys.readouterr().err
    )


@pytest.mark.parametrize("target", ["0", "1.5"])
def test_calibrate__usage(labelled: Path, truth: Path, tmp_path: Path, target: str) -> None:
    assert calibrate(labelled, truth, tmp_path / "v.yaml", "--target-precision", target) == 2


def test_detect_and_report__after_calibrate(
    labelled: Path,
    truth: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Another context is warned of, the thresholds are used, the report has the call's times."""

    def open_labelling_model(vocabulary: object, options: object) -> StubModel:
        model = StubModel()
        model.settings |= {"system": "vild", "context": "other"}
        return model

    module = ModuleType("vildcli.labelling.model")
    module.open_labelling_model = open_labelling_model  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vildcli.labelling.model", module)
    monkeypatch.setenv("VILDCLI_CACHE", str(tmp_path / "cache"))
    header = json.loads((labelled / "run.json").read_text())
    header["settings"] |= {"system": "vild", "context": "lvis"}
    (labelled / "run.json").write_text(json.dumps(header))
    out, photos = tmp_path / "calibrated.yaml", draw_images(tmp_path / "others", 3)
    assert calibrate(labelled, truth, out) == 0
    capsys.readouterr()
    new = tmp_path / "new"
    assert run(["detect", str(photos), "--vocab", str(out), "--out", str(new)]) == 0
    assert (
        "Warning: The thresholds of fruit were calibrated with another context: calibrate them "
        "again for this run.\n" in capsys.readouterr().err
    )
    assert view_run(new).thresholds == {c.id: c.threshold for c in load_vocabulary(out).categories}
    assert run(["report", str(new)]) == 0
    (call,) = (new / "calls.jsonl").read_text().splitlines()
    assert json.loads(call)["images"] == 3
    page = (new / "report.html").read_text(encoding="utf-8")
    assert "images a second" in page
    assert "left its times" not in page


def test_warn_of_foreign_thresholds(capsys: pytest.CaptureFixture[str]) -> None:
    step: dict[str, Any] = {"step": "calibrate", "holds_for": {"system": "vild", "context": "a"}}
    words = Vocabulary("fruit", WORDS.categories, provenance=(step,))
    warn_of_foreign_thresholds(words, {"system": "vild", "context": "a"})
    assert capsys.readouterr().err == ""
    warn_of_foreign_thresholds(words, {"system": "vild", "context": "b", "text_encoder": "t"})
    assert capsys.readouterr().err == (
        "Warning: The thresholds of fruit were calibrated with another text encoder, context: "
        "calibrate them again for this run.\n"
    )
