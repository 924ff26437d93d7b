from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from run_builder import DrawnImage, DrawnLabel, build_run
from tiny_evaluation import lvis_truth, save_clip, save_student
from tiny_training import rewrite

from vildcli.cli import run
from vildcli.commands.evaluate import PROTOCOLS as CHOICES
from vildcli.evaluation.protocols import PROTOCOLS
from vildcli.vocabulary.category import Category, Vocabulary

WORDS = Vocabulary("fruit", (Category(1, "apple"), Category(2, "pear"), Category(3, "plum")))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A truth of three images, and models."""
    folder = tmp_path_factory.mktemp("evaluate")
    lvis_truth(folder / "world")
    clip = save_clip(folder / "clip")
    save_student(folder / "clean.safetensors", clip)
    save_student(folder / "coco.safetensors", clip, provenance={"init": "coco"})
    return folder


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """A run on the same images: every apple right, every pear called plum."""
    images = [
        DrawnImage(
            f"{i}.png",
            (60, 50),
            (
                DrawnLabel(1, 0.9, (4, 5 + 3 * i, 18, 25 + 3 * i)),
                DrawnLabel(3, 0.8, (22, 5 + 3 * i, 36, 25 + 3 * i), is_base=False),
            ),
        )
        for i in range(3)
    ]
    return build_run(tmp_path / "run", tmp_path / "photos", images, vocabulary=WORDS)


def truth_of(world: Path) -> list[str]:
    return ["--truth", str(world / "world" / "train.json")]


def evaluate(world: Path, model: str, *more: str) -> int:
    images = ["--images", str(world / "world"), "--offline", "--device", "cpu"]
    return run(["evaluate", "--model", str(world / model), *truth_of(world), *images, *more])


def printed(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_protocols__are_those_of_the_table() -> None:
    assert tuple(PROTOCOLS) == CHOICES


def test_a_model__in_the_tables_that_people_know(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(world, "clean.safetensors", "--json") == 0
    out, err = capsys.readouterr()
    values = json.loads(out)
    assert values["protocol"] == "lvis"
    assert list(values["results"]) == ["Box AP", "Mask AP"]
    assert len(values["results"]["Mask AP"]) == 13
    assert values["by_training"]["Mask AP"].keys() == {
        "base AP", "novel AP", "base AP50", "novel AP50",
    }  # fmt: skip
    assert values["images"] == 3
    assert err.count("maxDets=300") == 26
    assert "What became of the objects\n" in err
    assert "NOT ZERO-SHOT" not in err


def test_a_model__by_another_protocol(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate(world, "clean.safetensors", "--protocol", "coco", "--json") == 0
    values = printed(capsys)
    assert len(values["results"]["Box AP"]) == 12
    assert evaluate(world, "clean.safetensors", "--protocol", "voc", "--json") == 0
    assert "AP50 11-point" in printed(capsys)["results"]["Box AP"]
    assert evaluate(world, "clean.safetensors", "--protocol", "coco-48-17") == 1
    assert "has none of the 17 novel categories" in capsys.readouterr().err


def test_a_leak__is_said_and_refused_with_strict(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(world, "coco.safetensors", "--json") == 0
    out, err = capsys.readouterr()
    leak = (
        "The initialisation of the model has seen boxes of COCO's 80 categories, on COCO "
        "train2017, where LVIS val images lie too."
    )
    assert json.loads(out)["not_zero_shot"] == [leak]
    assert f"Warning: NOT ZERO-SHOT: {leak}" in err
    assert evaluate(world, "coco.safetensors", "--strict") == 1
    out, err = capsys.readouterr()
    model = world / "coco.safetensors"
    assert err == (
        f"Error: {model} is not zero-shot on lvis: {leak}\n"
        "Hint: Leave --strict out to see its numbers all the same.\n"
    )
    assert evaluate(world, "clean.safetensors", "--strict") == 0


def test_proposals__instead_of_precision(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate(world, "clean.safetensors", "--proposals", "--json") == 0
    values = printed(capsys)
    assert "results" not in values
    assert {"all AR@100", "rare AR@300", "all ARs@1000"} <= values["proposal_recall"].keys()


def test_fixed__is_a_number_apart(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate(world, "clean.safetensors", "--fixed", "--json") == 0
    results = printed(capsys)["results"]
    assert list(results) == ["Box AP", "Mask AP", "Fixed box AP", "Fixed mask AP"]
    assert evaluate(world, "clean.safetensors", "--fixed", "--protocol", "coco") == 2
    assert "--fixed is for --protocol lvis." in capsys.readouterr().err


def test_a_run__with_its_policy_said(
    world: Path, labelled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["evaluate", str(labelled), *truth_of(world), "--json"]) == 0
    out, err = capsys.readouterr()
    values = json.loads(out)
    assert values["results"]["Box AP"]["AP50"] == pytest.approx(1 / 3)
    assert values["outcomes"]["all"] == {"found": 3, "misclassified": 3, "missed": 3}
    assert values["not_known"] == ["Nothing says what the model has seen."]
    assert "Warning: Labels are not the publication's detections (one name a region" in err


def test_a_run__per_category_and_with_a_threshold(
    world: Path, labelled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["evaluate", str(labelled), *truth_of(world), "--per-category", "--json"]
    assert run([*arguments, "--conf", "0.85"]) == 0
    out, err = capsys.readouterr()
    rows = {row["name"]: row for row in json.loads(out)["categories"]["Box AP"]}
    assert rows["apple"]["ap50"] == pytest.approx(1)
    assert rows["plum"]["ap50"] == 0
    assert "Box AP by category\n" in err
    assert "scores from 0.85 on" in err


def test_a_run__needs_no_torch(world: Path, labelled: Path, tmp_path: Path) -> None:
    arguments = ["evaluate", str(labelled), *truth_of(world), "--out", str(tmp_path / "out")]
    code = (
        f"import sys; from vildcli.cli import run; code = run({arguments!r}); "
        "sys.exit('torch' if 'torch' in sys.modules else code)"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr


def test_a_run_of_detect__knows_what_its_model_has_seen(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the model's file through detect and its records: nothing is lost on the way."""
    for model, expected in (("clean.safetensors", []), ("coco.safetensors", ["coco"])):
        out = tmp_path / model
        detect = ["detect", str(world / "world"), "--model", str(world / model), "--out", str(out)]
        words = ["--classes", "apple, pear, plum", "--context", "none", "--offline"]
        assert run([*detect, *words, "--device", "cpu"]) == 0
        capsys.readouterr()
        assert run(["evaluate", str(out), *truth_of(world), "--json"]) == 0
        values = printed(capsys)
        assert len(values.get("not_zero_shot", [])) == len(expected)
        assert "not_known" not in values
        assert values["system"] == "vild-ensemble"


def test_clip_on_crops__with_a_models_regions(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    crops = ["--model", "clip-on-crops", "--teacher", f"local-dir:{world / 'clip'}"]
    more = ["--images", str(world / "world"), "--offline", "--device", "cpu", "--json"]
    regions = ["--regions-from", str(world / "coco.safetensors"), "--regions", "12"]
    assert run(["evaluate", *crops, *regions, *truth_of(world), *more]) == 0
    values = printed(capsys)
    assert values["system"] == "clip-on-crops"
    assert "by_training" not in values  # no boxes were trained on at all
    assert values["not_zero_shot"] == [
        "The initialisation of the proposer of the model has seen boxes of COCO's 80 categories, "
        "on COCO train2017, where LVIS val images lie too."
    ]
    assert sum(row["regions"] for row in values["overlap_scores"]) <= 3 * 12
    assert run(["evaluate", *crops, *regions, *truth_of(world), *more, "--proposals"]) == 0
    assert "proposal_recall" in printed(capsys)


def test_out__holds_a_report_and_is_not_overwritten_by_another(
    world: Path, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "report"
    arguments = ["evaluate", str(labelled), *truth_of(world), "--out", str(out)]
    assert run(arguments) == 0
    assert f"Report: {out / 'report.md'}" in capsys.readouterr().err
    names = {path.name for path in out.iterdir()}
    assert {"report.md", "report.json", "categories.csv", "predictions.json"} <= names
    assert {"precision-recall.png", "confusion.png", "failures.png"} <= names
    with (out / "terms.csv").open(encoding="utf-8", newline="") as file:
        terms = {found["name"]: found for found in csv.DictReader(file)}
    assert set(terms) == {"apple", "pear", "plum"}
    assert (terms["apple"]["shown"], terms["apple"]["precision"]) == ("3", "1.000000")
    assert "## Shown labels, at the thresholds in use" in (out / "report.md").read_text()
    assert "![failures](failures.png)" in (out / "report.md").read_text()
    assert run(arguments) == 0
    assert run([*arguments, "--conf", "0.5"]) == 1
    assert "holds a run with other settings (conf: None there, 0.5 now)" in capsys.readouterr().err
    assert run([*arguments, "--conf", "0.5", "--force"]) == 0


def test_run__shown_labels_by_group_and_by_term(
    world: Path, labelled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three apples are right; the plums, which are rare, are pears."""
    assert run(["evaluate", str(labelled), *truth_of(world), "--json", "--per-category"]) == 0
    out, err = capsys.readouterr()
    values = json.loads(out)
    terms = {found["name"]: found for found in values["terms"]}
    assert terms["apple"]["F1"] == 1
    assert (terms["plum"]["group"], terms["plum"]["threshold"]) == ("rare", 0.3)
    assert (terms["pear"]["recall"], terms["pear"]["precision"]) == (0, -1)
    groups = {found["name"]: found for found in values["agreement"]}
    assert groups["all"]["right"] == 3
    assert "Shown labels, at the thresholds in use, by term" in err
    assert run(["evaluate", str(labelled), *truth_of(world), "--conf", "0.95", "--json"]) == 0
    groups = {found["name"]: found for found in printed(capsys)["agreement"]}
    assert (groups["all"]["shown"], groups["all"]["recall"]) == (0, 0)


def test_voc_truth__from_its_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    annotations = tmp_path / "VOC" / "Annotations"
    annotations.mkdir(parents=True)
    (annotations / "a.xml").write_text(
        "<annotation><filename>a.png</filename><size><width>60</width><height>50</height></size>"
        "<object><name>apple</name><bndbox><xmin>5</xmin><ymin>6</ymin><xmax>18</xmax>"
        "<ymax>25</ymax></bndbox></object></annotation>"
    )
    images = [DrawnImage("a.png", (60, 50), (DrawnLabel(1, 0.9, (4, 5, 18, 25)),))]
    labelled = build_run(tmp_path / "run", tmp_path / "photos", images, vocabulary=WORDS)
    assert run(["evaluate", str(labelled), "--truth", str(tmp_path / "VOC"), "--json"]) == 0
    assert printed(capsys)["results"]["Box AP"]["AP50"] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Give either a labelling RUN or --model M."),
        (["RUN", "--model", "m"], "Give either a labelling RUN or --model M."),
        (["--model", "m"], "--model needs --images DIR: the images of the truth."),
        (["--model", "m", "--images", "DIR", "--conf", "0.5"], "--conf is for a RUN"),
        (["RUN", "--fixed"], "--fixed is for a --model"),
        (
            ["--model", "m", "--images", "DIR", "--fixed", "--proposals"],
            "Give either --fixed or --proposals.",
        ),
    ],
)
def test_usage(
    world: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    given = [str(tmp_path) if value in ("RUN", "DIR") else value for value in arguments]
    assert run(["evaluate", *given, *truth_of(world)]) == 2
    assert message in capsys.readouterr().err


def test_a_truth_that_nothing_matches__is_an_error(
    world: Path, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def rename(content: Any) -> None:
        for image in content["images"]:
            image["file_name"] = f"other/{image['id']}.jpg"

    other = rewrite(lvis_truth(tmp_path / "other"), rename)
    assert run(["evaluate", str(labelled), "--truth", str(other)]) == 1
    assert f"None of the 3 images of {labelled} is in {other}." in capsys.readouterr().err
