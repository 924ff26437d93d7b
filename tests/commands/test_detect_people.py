"""`vildcli detect --labels`: the run beside labels that people made."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from numpy.typing import NDArray
from stub_model import StubModel, draw_images

from vildcli.cli import run
from vildcli.labelling.records import iter_images, iter_labelled_images, read_part

WIDTH, HEIGHT = 24, 16
# The first is nearly one that the stub finds on the image.
BOXES = {"0002.png": [[2.5, 6, 8.5, 6.5]], "0007.png": [[0.0, 0, 12, 12], [6.0, 5, 8, 9]]}


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["vildcli"])
    monkeypatch.setenv("VILDCLI_CACHE", str(tmp_path / "cache"))
    module = ModuleType("vildcli.labelling.model")
    module.open_labelling_model = lambda *_: StubModel()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vildcli.labelling.model", module)
    write_labels()
    return draw_images(tmp_path / "photos", 20, (WIDTH, HEIGHT))


def write_labels(size: tuple[int, int] = (WIDTH, HEIGHT), crowd: bool = False) -> None:
    images = [
        {"id": i, "file_name": name, "width": size[0], "height": size[1]}
        for i, name in enumerate(BOXES)
    ]
    annotations = [
        {
            "id": 10 * i + k, "image_id": i, "category_id": 99, "bbox": box,
            "area": box[2] * box[3], "iscrowd": int(crowd),
        }
        for i, boxes in enumerate(BOXES.values())
        for k, box in enumerate(boxes)
    ]  # fmt: skip
    categories = [{"id": 99, "name": "nothing that is looked for"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    Path("labels.json").write_text(json.dumps(content))


def detect(*arguments: object) -> int:
    given = map(str, arguments)
    return run(["detect", "photos", *given, "--labels", "labels.json", "--classes", "apple, pear"])


def label_boxes(folder: str) -> dict[str, NDArray[np.float64]]:
    images = iter_labelled_images(Path(folder))
    return {
        image.image.path: np.array([label.box for label in image.labels]).reshape(-1, 4)
        for image in images
    }


def overlaps(boxes: NDArray[np.float64], drawn: list[list[float]], crowd: bool) -> float:
    """The greatest IoU, or with crowds share of a box, by counting points of a fine grid."""
    ys, xs = np.mgrid[0:HEIGHT:0.1, 0:WIDTH:0.1]

    def inside(x1: float, y1: float, x2: float, y2: float) -> NDArray[np.bool_]:
        found: NDArray[np.bool_] = (xs >= x1) & (xs < x2) & (ys >= y1) & (ys < y2)
        return found

    greatest = 0.0
    for box in boxes:
        mine = inside(*box)
        for x, y, width, height in drawn:
            theirs = inside(x, y, x + width, y + height)
            whole = mine if crowd else mine | theirs
            greatest = max(greatest, float((mine & theirs).sum() / whole.sum()))
    return greatest


@pytest.mark.parametrize("crowd", [False, True])
def test_labels__merge_never_overlaps_a_human_box(photos: Path, crowd: bool) -> None:
    write_labels(crowd=crowd)
    assert detect("--out", "replaced", "--existing", "replace") == 0
    assert detect("--out", "merged", "--existing", "merge", "--keep-regions") == 0
    before, after = label_boxes("replaced"), label_boxes("merged")
    assert set(before) == set(after)
    assert max(overlaps(before[name], drawn, crowd) for name, drawn in BOXES.items()) > 0.55
    for name, boxes in before.items():
        if name not in BOXES:
            assert np.array_equal(boxes, after[name])
    for name, drawn in BOXES.items():
        assert overlaps(after[name], drawn, crowd) < 0.51
    names = {image.image_id: image.path for image in iter_images(Path("merged"))}
    for row in read_part(Path("merged"), "regions", 0).to_pylist():  # relabelling brings none back
        drawn = BOXES.get(names[row["image_id"]], [])
        assert overlaps(np.array([row["box"]]), drawn, crowd) < 0.51


def test_labels__skip_leaves_the_images_out(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert detect("--out", "run") == 0
    paths = [image.path for image in iter_images(Path("run"))]
    assert len(paths) == 18
    assert not set(paths) & set(BOXES)
    said = "labels.json: people labelled 2 images (3 boxes); they are left out.\n"
    assert said in capsys.readouterr().err


def test_labels__what_is_not_found_is_counted(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "0007.png").unlink()
    assert detect("--out", "run", "--existing", "merge", "--dry-run") == 0
    shown = capsys.readouterr().err
    assert "people labelled 1 image (1 box); what they drew a box around is left out." in shown
    assert "Warning: 1 labelled image of labels.json not found." in shown


def test_labels__nothing_left_to_label(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for file in photos.iterdir():
        if file.name not in BOXES:
            file.unlink()
    assert detect("--existing", "skip") == 2
    assert "People labelled every image already: labels.json has all 2." in capsys.readouterr().err


def test_labels__are_part_of_the_fingerprint(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert detect("--out", "run") == 0
    assert detect("--out", "run") == 0
    assert "run is already done." in capsys.readouterr().err
    assert detect("--out", "run", "--existing", "replace") == 1
    assert "(existing: 'skip' there, 'replace' now)" in capsys.readouterr().err
    write_labels(crowd=True)
    assert detect("--out", "run") == 1
    assert "run holds a run with other settings (labels: '" in capsys.readouterr().err
    assert json.loads(Path("run/run.json").read_text())["arguments"]["labels"] == str(
        Path("labels.json").resolve()
    )


def test_labels__of_an_image_of_another_size_fail_that_image(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_labels(size=(HEIGHT, WIDTH))
    assert detect("--out", "run", "--existing", "merge") == 3
    said = "Failed: 0002.png: is 24 x 16 pixels, where people labelled it 16 x 24.\n"
    assert said in capsys.readouterr().err


def test_labels__an_image_that_people_drew_on_is_no_copy(photos: Path) -> None:
    shutil.copyfile(photos / "0002.png", photos / "x.png")
    shutil.copyfile(photos / "0003.png", photos / "y.png")
    assert detect("--out", "run", "--existing", "merge", "--dedupe") == 0
    found = label_boxes("run")
    assert np.array_equal(found["y.png"], found["0003.png"])
    assert not np.array_equal(found["x.png"], found["0002.png"])
