from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from export_run import ODD, build_odd_run
from run_builder import DrawnImage, build_run

from vildcli.cli import run as vildcli
from vildcli.export import FORMATS
from vildcli.export.checks import CHECKS


@pytest.fixture
def run(tmp_path):
    return build_run(tmp_path / "run", tmp_path / "photos")


def test_export__default_out_and_next_command(run, capsys):
    assert vildcli(["export", str(run)]) == 0
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines() == [
        "4 labels on 3 images, 2 below their thresholds.",
        "1 failed image is left out.",
        f"Wrote {run / 'coco.json'}",
        f"Next: vildcli review {run}",
    ]
    assert len(json.loads((run / "coco.json").read_text())["annotations"]) == 4


def test_export__existing_file_needs_force(run, tmp_path, capsys):
    out = tmp_path / "coco.json"
    out.write_text("mine")
    assert vildcli(["export", str(run), "--out", str(out)]) == 1
    assert out.read_text() == "mine"
    assert capsys.readouterr().err.splitlines() == [
        f"Error: {out} exists.",
        "Hint: Choose another --out, or --force to overwrite it.",
    ]
    assert vildcli(["export", str(run), "--out", str(out), "--force"]) == 0
    assert out.read_text() != "mine"


def test_export__json(run, tmp_path, capsys):
    out = tmp_path / "coco.json"
    assert vildcli(["export", str(run), "--out", str(out), "--conf", "0", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "out": str(out),
        "images": 3,
        "failed": 1,
        "labels": 6,
        "hidden": 0,
        "units_done": 2,
        "units_total": 2,
        "files": [str(out)],
    }


def test_export__incomplete_run_warns(tmp_path, capsys):
    run = build_run(tmp_path / "run", tmp_path / "photos", finished=1)
    assert vildcli(["export", str(run)]) == 0
    first = capsys.readouterr().err.splitlines()[0]
    assert first == f"Warning: {run} is not complete: 1 of 2 units are done."


def test_export__unknown_format(run, capsys):
    assert vildcli(["export", str(run), "--to", "pascal"]) == 2
    assert (
        "'pascal' is none of: coco, lvis, yolo, voc, labelstudio, cvat, csv, parquet, fiftyone."
        in capsys.readouterr().err
    )


def test_export__not_a_run(tmp_path, capsys):
    assert vildcli(["export", str(tmp_path)]) == 1
    assert capsys.readouterr().err.splitlines() == [
        f"Error: {tmp_path} is not a labelling run: it has no run.json.",
        "Hint: Name the folder that was given as --out.",
    ]


@pytest.fixture
def odd(tmp_path):
    return build_odd_run(tmp_path)


EVERY = [(name, geometry) for name, form in FORMATS.items() for geometry in form.geometries]


@pytest.mark.parametrize(("target", "geometry"), EVERY)
def test_export__every_format_passes_its_own_check(odd, tmp_path, capsys, target, geometry):
    out = tmp_path / "out" / FORMATS[target].name
    arguments = ["--to", target, "--geometry", geometry, "--out", str(out)]
    assert vildcli(["export", str(odd), *arguments, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["images"], said["labels"]) == (5, 7)
    assert said["files"][0] == str(out)
    assert vildcli(["export", "--check", str(out)]) == 0
    assert capsys.readouterr().err == f"{out} ({target}): nothing wrong.\n"


@pytest.mark.parametrize("target", FORMATS)
def test_export__a_run_whose_images_all_failed(tmp_path, capsys, target):
    images = [DrawnImage("broken.jpg", None), DrawnImage("worse.jpg", None)]
    run = build_run(tmp_path / "run", tmp_path / "photos", images, vocabulary=ODD)
    for options in ([], ["--split", "train=0.5,val=0.5", "--force"]):
        assert vildcli(["export", str(run), "--to", target, "--json", *options]) == 0
        said = json.loads(capsys.readouterr().out)
        assert (said["images"], said["failed"], said["labels"]) == (0, 2, 0)
        end = FORMATS[target].beside
        for file in (file for file in said["files"] if not end or not file.endswith(end)):
            assert vildcli(["export", "--check", file, "--to", target]) == 0


def test_formats__are_all_checked_and_all_named(capsys):
    assert list(CHECKS) == list(FORMATS)
    vildcli(["export", "--help"])
    assert ", ".join(FORMATS) in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("target", ["yolo", "voc", "fiftyone"])
@pytest.mark.parametrize("way", ["link", "copy"])
def test_export__images_of_folders(odd, tmp_path, capsys, target, way):
    (tmp_path / "photos").rename(tmp_path / "moved")
    out = tmp_path / "out"
    arguments = ["export", str(odd), "--to", target, "--out", str(out), "--images", way]
    assert vildcli(arguments) == 1
    assert capsys.readouterr().err.splitlines() == [
        f"Error: {tmp_path / 'photos' / 'a.png'} is not there.",
        "Hint: Name the folder that the run's images were moved to as --images.",
    ]
    assert vildcli([*arguments, "--images", str(tmp_path / "moved")]) == 0
    files = [path for path in out.rglob("*") if path.suffix in (".png", ".jpg")]
    assert len(files) == 5
    assert {path.is_symlink() for path in files} == {way == "link"}
    assert vildcli(["export", "--check", str(out)]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--to", "voc", "--geometry", "rle"], "--to voc holds --geometry box."),
        (["--to", "yolo", "--geometry", "rle"], "--to yolo holds --geometry box or polygon."),
        (["--images", "copy"], "--images copy is for --to yolo or voc or fiftyone."),
        (["--to", "voc", "--save-conf"], "--save-conf is for --to yolo."),
        (["--image-url", "x"], "--image-url is for --to labelstudio."),
        (
            ["--to", "yolo", "--save-conf", "--geometry", "polygon"],
            "--save-conf is for --geometry box.",
        ),
        (["--images", "link", "--images", "copy"], "Give one folder, and either link or copy."),
        (["--images", "nowhere"], "Directory 'nowhere' does not exist."),
        (["--split", "train"], "'' is no share of train; write train=0.8,val=0.2."),
        (["--split", "=1"], "'' is no name of a part; write train=0.8,val=0.2."),
        (["--split", "a/b=1"], "'a/b' is no name of a part; write train=0.8,val=0.2."),
        (["--split", "download=1"], "'download' is no name of a part"),
        (["--split", "a=0.5,a=0.5"], "A part is named twice."),
        (["--split", "a=0.5,b=0.4"], "The shares add up to 0.9, not to 1."),
        (["--split", "a=nan,b=1"], "'nan' is no share of a; write train=0.8,val=0.2."),
        (["--check", "x"], "Path 'x' does not exist."),
    ],
)
def test_export__usage(odd, capsys, arguments, message):
    assert vildcli(["export", str(odd), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_export__a_run_or_a_file_to_check(odd, capsys):
    assert vildcli(["export"]) == 2
    assert "Give either a labelling RUN or --check FILE." in capsys.readouterr().err
    assert vildcli(["export", str(odd), "--check", str(odd)]) == 2


def test_export__split_writes_a_file_a_part(odd, tmp_path, capsys):
    out = tmp_path / "x.json"
    arguments = ["export", str(odd), "--out", str(out), "--split", "train=.2, val=0.8"]
    (tmp_path / "x-val.json").write_text("mine")
    assert vildcli(arguments) == 1
    assert f"Error: {tmp_path / 'x-val.json'} exists." in capsys.readouterr().err
    assert vildcli([*arguments, "--force"]) == 0
    assert capsys.readouterr().err.splitlines()[2:4] == [
        f"Wrote {tmp_path / 'x-train.json'}",
        f"Wrote {tmp_path / 'x-val.json'}",
    ]
    assert not out.exists()


def test_export__labels_an_image(odd, tmp_path, capsys):
    out = tmp_path / "yolo"
    out.mkdir()  # an empty folder is in nobody's way
    arguments = ["export", str(odd), "--to", "yolo", "--out", str(out), "--max-per-image", "2"]
    assert vildcli(arguments) == 0
    assert capsys.readouterr().err.splitlines()[0] == "5 labels on 5 images, 3 left out."
    assert len((out / "labels" / "a.txt").read_text().splitlines()) == 2
    assert yaml.safe_load((out / "data.yaml").read_text())["train"] == "images"


def test_export__force_deletes_exports_only(odd, tmp_path, capsys):
    arguments = ["export", str(odd), "--to", "yolo", "--force", "--out"]
    assert vildcli([*arguments, str(odd)]) == 1
    assert capsys.readouterr().err.splitlines() == [
        f"Error: {odd} is no export that vildcli made, so it is not replaced.",
        "Hint: Choose another --out, or remove it yourself.",
    ]
    assert (odd / "plan.parquet").exists()
    assert vildcli([*arguments, str(tmp_path / "yolo")]) == 0
    assert vildcli([*arguments[:4], "--out", str(tmp_path / "yolo")]) == 1
    assert vildcli([*arguments, str(tmp_path / "yolo")]) == 0


def test_export__a_second_file_beside_is_not_overwritten_either(odd, tmp_path, capsys):
    (tmp_path / "ls-config.xml").write_text("mine")
    arguments = ["export", str(odd), "--to", "labelstudio", "--out", str(tmp_path / "ls.json")]
    assert vildcli(arguments) == 1
    assert f"Error: {tmp_path / 'ls-config.xml'} exists." in capsys.readouterr().err
    assert not (tmp_path / "ls.json").exists()


def test_export__no_format_needs_torch_or_fiftyone(odd, tmp_path):
    code = (
        "import sys; from pathlib import Path; from export_run import select\n"
        "from vildcli.export import FORMATS; from vildcli.export.checks import check_export\n"
        "run, out = Path(sys.argv[1]), Path(sys.argv[2])\n"
        "for name, form in FORMATS.items():\n"
        "    form.export(select(run), out / form.name)\n"
        "    assert check_export(out / form.name) == (name, [])\n"
        "print(sorted({'torch', 'fiftyone'} & set(sys.modules)))"
    )
    said = subprocess.run(
        [sys.executable, "-c", code, str(odd), str(tmp_path / "out")],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[1],
    )
    assert said.stdout.strip() == "[]"
