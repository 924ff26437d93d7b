"""A labelling run as a YOLO data set: one text file an image, and `data.yaml`.

data.yaml                 names of the classes, and the ids that they have in the vocabulary
labels/train/deep/b.txt   class x y width height, or class x y x y …: shares of width and height
images/train/deep/b.jpg   only where images are copied or linked
scores.csv                the score of every line of every file, which YOLO has no place for
images.csv                which image of the run each file is
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from vildcli.export.geometry import Geometry, cut_box, outline
from vildcli.export.names import FileNames
from vildcli.export.selection import SelectedImage, Selection
from vildcli.export.summary import ExportSummary
from vildcli.export.writing import ImageFiles, place_image, write_folder
from vildcli.labelling.records import ImageRecord, LabelRecord

_SCORES = ("file", "line", "image_id", "label", "category_id", "score")
_IMAGES = ("file", "image_id", "source", "path", "width", "height")
_NO_SPLIT = "# train and val are the same images: --split would part them.\n"


def export_yolo(
    selection: Selection,
    out: Path,
    *,
    geometry: Geometry = "box",
    save_conf: bool = False,
    images: ImageFiles | None = None,
) -> ExportSummary:
    """Write a folder that Ultralytics trains on, in place of an older export.

    Classes count from 0 in the order of the vocabulary, as YOLO wants it; `vildcli_ids` of
    `data.yaml` are the ids they stand for. An image without labels has an empty file.

    Args:
        geometry: `box`, or `polygon` for segmentation: one outline an object.
        save_conf: add the score as sixth column of boxes, as `yolo predict save_conf` does. What
            trains on such files refuses it.
        images: how the images come into the folder; by default they do not.

    Raises:
        RunError: `out` holds something else or cannot be written.
        DataError: a record is damaged, or an image is not where it was.
    """
    counts: Counter[str] = Counter()
    settings = {"to": "yolo", "run": selection.view.fingerprint, "geometry": geometry}
    write = partial(
        _write,
        selection=selection,
        geometry=geometry,
        save_conf=save_conf,
        images=images,
        counts=counts,
    )
    write_folder(out, settings, write)
    return selection.summary(out, counts)


def _write(
    folder: Path,
    selection: Selection,
    geometry: Geometry,
    save_conf: bool,
    images: ImageFiles | None,
    counts: Counter[str],
) -> None:
    (folder / "data.yaml").write_text(_data_yaml(selection), encoding="utf-8")
    _make_folders(folder, selection, with_images=images is not None)
    names = FileNames(selection, _folder_name)
    classes = {category.id: place for place, category in enumerate(selection.categories)}
    with (
        _table(folder / "images.csv", _IMAGES) as image_rows,
        _table(folder / "scores.csv", _SCORES) as score_rows,
    ):
        for image in selection.labelled_images(counts):
            part = f"{image.part}/" if image.part is not None else ""
            label_file = f"labels/{part}{names.stem(image.record)}.txt"
            image_file = f"images/{part}{names.image(image.record)}"
            lines = [_line(classes, image.record, la, geometry) for la in image.labels]
            scores = [selection.scores(label)["score"] for label in image.labels]
            if save_conf:
                lines = [f"{line} {score}" for line, score in zip(lines, scores, strict=True)]
            _write_lines(folder / label_file, lines)
            image_rows.writerow(_image_row(image_file, image))
            score_rows.writerows(
                (label_file, number, image.record.image_id, label.label, label.category_id, score)
                for number, (label, score) in enumerate(
                    zip(image.labels, scores, strict=True), start=1
                )
            )
            if images is not None:
                place_image(selection.path(image.record), folder / image_file, images)


def _make_folders(folder: Path, selection: Selection, *, with_images: bool) -> None:
    """Those that data.yaml names, whether an image comes into them or not."""
    for kind in ("labels", "images") if with_images else ("labels",):
        for part in selection.split.names if selection.split is not None else ("",):
            (folder / kind / part).mkdir(parents=True)


def _data_yaml(selection: Selection) -> str:
    parts = selection.split.names if selection.split is not None else ()
    content: dict[str, Any] = {part: f"images/{part}" for part in parts}
    if not parts:
        content = {"train": "images", "val": "images"}
    content["names"] = {place: c.name for place, c in enumerate(selection.categories)}
    content["vildcli_ids"] = [category.id for category in selection.categories]
    text = yaml.safe_dump(content, allow_unicode=True, sort_keys=False, width=10_000)
    return text if parts else _NO_SPLIT + text


def _folder_name(name: str) -> str:
    """A reader finds the labels of an image by its path's last `images` folder."""
    return f"{name}_" if name == "images" else name


def _line(
    classes: Mapping[int, int], image: ImageRecord, label: LabelRecord, geometry: Geometry
) -> str:
    if geometry == "box":
        x1, y1, x2, y2 = cut_box(label, image)
        pairs = [((x1 + x2) / 2, (y1 + y2) / 2), (x2 - x1, y2 - y1)]
    else:
        pairs = outline(label, image)
    shares = (_share(v, of) for x, y in pairs for v, of in ((x, image.width), (y, image.height)))
    return " ".join([str(classes[label.category_id]), *shares])


def _share(pixels: float, of: int) -> str:
    """In 0-1, to a ten-thousandth of a pixel of the largest images."""
    return f"{pixels / of:.8f}".rstrip("0").rstrip(".")


def _write_lines(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _image_row(file: str, image: SelectedImage) -> tuple[Any, ...]:
    record = image.record
    return file, record.image_id, record.source, record.path, record.width, record.height


@contextmanager
def _table(path: Path, columns: tuple[str, ...]) -> Iterator[Any]:
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(columns)
        yield rows
