from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_student import save_clip, save_student

import vildcli
from vildcli import (
    Category,
    ImageLabels,
    LoadedDetector,
    VildError,
    Vocabulary,
    evaluate,
    export_run,
    label_images,
    load_detector,
    merge,
    read_labels,
    relabel,
)
from vildcli.cli import run as command_line
from vildcli.labelling.records import iter_labelled_images

PAGE = Path(__file__).parents[1] / "docs" / "python.md"
FRUIT = Vocabulary(
    "fruit",
    (Category(1, "apple"), Category(2, "pear")),
    attributes={"colour": ("red", "green")},
)


def noise(seed: int, width: int = 80, height: int = 60) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    return save_student(folder / "model.safetensors", save_clip(folder / "clip"))


@pytest.fixture(scope="module")
def detector(model: Path) -> LoadedDetector:
    return load_detector(model, device="cpu", offline=True)


@pytest.fixture
def place(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with `photos`, `model.safetensors` and `truth.json`, which the test stands in."""
    (tmp_path / "photos").mkdir()
    for seed, name in enumerate(("a.png", "b.png")):
        noise(seed).save(tmp_path / "photos" / name)
    (tmp_path / "model.safetensors").write_bytes(model.read_bytes())
    truth = {
        "images": [{"id": 5, "file_name": "a.png", "width": 80, "height": 60}],
        "annotations": [
            {
                "id": 1,
                "image_id": 5,
                "category_id": 1,
                "bbox": [5, 5, 40, 30],
                "area": 1200,
                "iscrowd": 0,
            }
        ],
        "categories": [{"id": 1, "name": "apple"}],
    }
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.S)


def test_page__every_block_runs_in_its_turn(place: Path, capsys: Any) -> None:
    names: dict[str, Any] = {}
    for block in blocks():
        exec(compile(block, str(PAGE), "exec"), names)
    found, labels = names["found"], names["labels"]
    assert names["everything"].boxes.shape == (len(names["everything"]), 4)
    assert names["picture"].size == (80, 60)
    assert labels.num_rows > 0
    assert set(names["frame"]["colour"]) <= {"red", "green", "yellow"}
    assert names["red"].num_rows == names["frame"]["colour"].count("red")
    assert (names["form"], names["problems"]) == ("coco", [])
    assert found.masks().shape == (len(found), 60, 80)
    assert names["with_people"].kept["truth"] == 1
    last = PAGE.read_text(encoding="utf-8").rstrip().splitlines()[-1]
    assert capsys.readouterr().out.splitlines()[-1] == last.split("`")[1]


def test_page__names_all_there_are() -> None:
    text = PAGE.read_text(encoding="utf-8")
    of_types = {"ImageLabels", "LoadedDetector"}
    assert [name for name in vildcli.__all__ if name not in of_types and name not in text] == []


def test_label__is_what_a_run_of_the_same_image_says(place: Path, detector: Any) -> None:
    torch.set_num_threads(1)  # several share a convolution as it comes: last bits differ
    summary = label_images("photos", FRUIT, detector=detector, out="run")
    assert (summary.images, summary.labelled, summary.failed) == (2, 2, 0)
    for stored in iter_labelled_images(Path("run")):
        found = detector.label(place / "photos" / stored.image.path, FRUIT, conf=0)
        assert len(found) == len(stored.labels) > 0
        assert found.category_ids.tolist() == [la.category_id for la in stored.labels]
        assert found.names == tuple(FRUIT.by_id()[la.category_id].name for la in stored.labels)
        np.testing.assert_allclose(found.scores, [la.score for la in stored.labels], rtol=1e-5)
        np.testing.assert_allclose(found.boxes, [la.box for la in stored.labels], rtol=1e-5)
        for values, label in zip(found.attributes, stored.labels, strict=True):
            (attribute,) = label.attributes
            assert values["colour"] == (attribute.name, pytest.approx(attribute.score, rel=1e-5))


def test_label__takes_files_pictures_and_arrays_alike(place: Path, detector: Any) -> None:
    path = place / "photos" / "a.png"
    with Image.open(path) as picture:
        every = [detector.label(one, FRUIT, conf=0) for one in (path, picture, np.array(picture))]
    for found in every[1:]:
        assert np.array_equal(found.boxes, every[0].boxes)
        assert np.array_equal(found.scores, every[0].scores)


def test_label__a_picture_is_turned_upright(place: Path, detector: Any) -> None:
    turned = noise(3)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    turned.save(place / "turned.jpg", exif=exif)
    with Image.open(place / "turned.jpg") as picture:
        assert detector.label(picture, FRUIT).size == (60, 80)


def test_label__regions_once_and_words_later(place: Path, detector: Any) -> None:
    regions = detector.find_regions(noise(0))
    calls: list[Any] = []
    count = len(regions)
    assert (regions.boxes.shape, regions.masks.shape) == ((count, 4), (count, 28, 28))
    for words in (FRUIT, ["plum"], "voc"):
        found = detector.label(regions, words, conf=0)
        again = detector.label(noise(0), words, conf=0)
        assert np.array_equal(found.boxes, again.boxes)
        assert np.array_equal(regions.boxes[found.regions].numpy(), found.boxes)
        calls.append(found.names)
    assert set(calls[1]) == {"plum"}


def test_label__thresholds_are_those_of_a_run(detector: Any) -> None:
    regions = detector.find_regions(noise(0))
    every = detector.label(regions, FRUIT, conf=0)
    middle = float(np.median(every.scores))
    assert detector.label(regions, FRUIT, conf=middle).scores.min() >= middle
    strict = Vocabulary(
        "strict", tuple(Category(c.id, c.name, threshold=1.0) for c in FRUIT.categories)
    )
    none = detector.label(regions, strict)
    assert (len(none), none.masks().shape, none.table().num_rows) == (0, (0, 60, 80), 0)
    assert none.draw(noise(0)).tobytes() == noise(0).tobytes()


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 4), np.uint8), "An array of uint8 with the shape (4, 4) is no image."),
        (np.zeros((4, 4, 3)), "An array of float64 with the shape (4, 4, 3) is no image."),
        (np.zeros((0, 4, 3), np.uint8), "An array of uint8 with the shape (0, 4, 3) is no image."),
    ],
)
def test_label__an_array_that_is_no_image(detector: Any, array: Any, message: str) -> None:
    with pytest.raises(VildError) as caught:
        detector.label(array, FRUIT)
    assert (str(caught.value), caught.value.hint) == (message, "Give [H, W, 3] uint8, RGB.")


def test_label_images__is_the_run_that_the_command_makes(place: Path, detector: Any) -> None:
    vildcli.save_vocabulary(FRUIT, Path("fruit.yaml"))
    label_images("photos", "fruit.yaml", detector=detector, out="ours", keep_regions=True)
    given = ["detect", "photos", "--model", "model.safetensors", "--vocab", "fruit.yaml"]
    given += ["--keep-regions", "--out", "theirs", "--device", "cpu"]
    assert command_line(given) == 0
    ours, theirs = (json.loads(Path(r, "run.json").read_text()) for r in ("ours", "theirs"))
    assert ours["settings"] == theirs["settings"]
    for table in ("regions", "labels", "images"):
        part = f"{table}/000000.parquet"
        assert Path("ours", part).read_bytes() == Path("theirs", part).read_bytes()
    resumed = label_images(
        "photos", FRUIT, detector=detector, out="ours", keep_regions=True
    ).resumed
    assert resumed == 2


def test_relabel_export_merge_evaluate(place: Path, detector: Any) -> None:
    label_images(
        ["photos/a.png", "photos/b.png"], FRUIT, detector=detector, out="run", keep_regions=True
    )
    labels = relabel("run", ["apple"], out="again", context="none").labels
    assert labels == read_labels("again", conf=0).num_rows
    with pytest.raises(VildError) as caught:
        export_run("run", "tsv", "x.tsv")
    assert str(caught.value) == "'tsv' is no format to export to."
    with pytest.raises(VildError) as caught:
        export_run("run", "voc", "x", geometry="rle")
    assert (str(caught.value), caught.value.hint) == ("voc holds no rle.", "Take box.")
    with pytest.raises(VildError) as caught:
        export_run("run", "coco", "x.json", images="copy")
    assert (str(caught.value), caught.value.hint) == ("coco takes no images.", "It takes none.")
    written = export_run("run", "csv", "labels.csv", conf=0)
    assert written.labels == read_labels("run", conf=0).num_rows > 0
    with pytest.raises(VildError) as caught:
        export_run("run", "csv", "labels.csv")
    assert str(caught.value) == "labels.csv exists."
    assert merge(["run", "again"], "both", renumber=True).images == 2
    of_run = evaluate("run", "truth.json")["results"]
    of_model = evaluate("model.safetensors", "truth.json", images="photos", device="cpu")["results"]
    assert set(of_run) == set(of_model) == {"Box AP"}
    with pytest.raises(VildError) as caught:
        evaluate("model.safetensors", "truth.json")
    assert str(caught.value) == "A model is evaluated on images."


def test_import__loads_nothing_heavy_and_torch_only_for_models(tmp_path: Path) -> None:
    code = (
        "import sys, vildcli\n"
        "heavy = lambda: sorted({'torch', 'pyarrow', 'numpy', 'rich', 'PIL'} & set(sys.modules))\n"
        "print(heavy())\n"
        "from vildcli import *\n"
        "from vildcli import Vocabulary, load_detector, label_images, read_labels\n"
        "print('torch' in sys.modules)\n"
        "try: read_labels('nowhere')\n"
        "except VildError: print('torch' in sys.modules)\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert found.stdout.splitlines() == ["[]", "False", "False"]


def test_names__are_all_there_and_typed() -> None:
    for name in vildcli.__all__:
        assert getattr(vildcli, name) is not None
        assert name in dir(vildcli)
    assert ImageLabels.__module__ == "vildcli.api"
    with pytest.raises(AttributeError, match="module 'vildcli' has no attribute 'nonsense'"):
        vildcli.nonsense  # noqa: B018
