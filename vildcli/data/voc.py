"""Reader of PASCAL VOC: one XML an image, read into COCO's JSON form. No torch.

    ROOT/Annotations/000007.xml   ROOT/ImageSets/Main/val.txt   ROOT/JPEGImages/000007.jpg

VOC counts pixels from 1 and a box includes its last one: xmin = 1, xmax = W is the whole width.
Here a box is x y width height from 0, and that one becomes 0, …, W. The plain overlap of such boxes
is VOC's own, which adds one pixel to every side.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

from vildcli.errors import DataError
from vildcli.vocabulary.files import load_vocabulary

_FOLDER = "Annotations"


def is_voc(path: Path) -> bool:
    """Whether a path is VOC's: a folder of XML files, one above it, or a list of images."""
    return path.is_dir() or path.suffix in (".txt", ".xml")


def read_voc(path: Path) -> dict[str, Any]:
    """Read VOC annotations as the JSON value of a COCO file.

    Images are sorted by name. An annotation says `difficult: 1` where VOC does. Categories are
    those of VOC with their shipped ids where every name is one of them, else all names that occur,
    sorted and numbered from 1.

    Args:
        path: VOC's folder, its `Annotations`, or a list such as `ImageSets/Main/val.txt`.

    Raises:
        DataError: no annotation found, one missing, or one that cannot be read.
    """
    files = _files(path)
    images: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    for number, file in enumerate(files, start=1):
        image, objects = _read_file(file)
        images.append({"id": number, **image})
        rows += [{"image_id": number, **found} for found in objects]
    ids = _category_ids({row["name"] for row in rows})
    annotations = [
        {"id": i, "category_id": ids[row.pop("name")], **row} for i, row in enumerate(rows, start=1)
    ]
    categories = [{"id": id_, "name": name} for name, id_ in ids.items()]
    return {"images": images, "annotations": annotations, "categories": categories}


def _files(path: Path) -> list[Path]:
    if path.suffix == ".xml":
        return [path]
    if path.suffix == ".txt":
        folder = path.resolve().parent.parent.parent / _FOLDER
        return [folder / f"{name}.xml" for name in sorted(_listed(path))]
    folder = path / _FOLDER if (path / _FOLDER).is_dir() else path
    files = sorted(folder.rglob("*.xml"))
    if not files:
        raise DataError(
            f"{path} holds no VOC annotations.",
            hint="Name the folder that has Annotations in it, or a list of ImageSets/Main.",
        )
    return files


def _listed(path: Path) -> set[str]:
    """Image names of a list; of a category's own list, which marks them 1, 0 or -1, all."""
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}.") from error
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise DataError(f"{path} lists no image.")
    # A name may have spaces: what looks like a mark is one where every line has it.
    marked = all(re.search(r"\s-?[01]$", line) for line in lines)
    return {line.rsplit(maxsplit=1)[0] if marked else line for line in lines}


def _read_file(file: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    try:
        # The standard library's parser loads nothing from outside and refuses unknown entities.
        root = ElementTree.parse(file).getroot()
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror or error}.") from error
    except ElementTree.ParseError as error:
        raise DataError(f"{file} is not XML: {error}.") from error
    image = {
        "file_name": root.findtext("filename") or f"{file.stem}.jpg",
        "width": int(_number(root, "size/width", file)),
        "height": int(_number(root, "size/height", file)),
    }
    return image, [_object(node, file) for node in root.iter("object")]


def _object(node: ElementTree.Element, file: Path) -> dict[str, Any]:
    name = (node.findtext("name") or "").strip()
    if not name:
        raise DataError(f"{file}: an object has no name.")
    x1, y1, x2, y2 = (_number(node, f"bndbox/{k}", file) for k in ("xmin", "ymin", "xmax", "ymax"))
    width, height = x2 - x1 + 1, y2 - y1 + 1
    if width <= 0 or height <= 0:
        raise DataError(f"{file}: the box of a {name} ends before it begins.")
    return {
        "name": name,
        "bbox": [x1 - 1, y1 - 1, width, height],
        "area": width * height,
        "iscrowd": 0,
        "difficult": int((node.findtext("difficult") or "0").strip() == "1"),
    }


def _number(node: ElementTree.Element, place: str, file: Path) -> float:
    text = (node.findtext(place) or "").strip()
    try:
        return float(text)
    except ValueError:
        raise DataError(f"{file}: {place} is {text!r}, not a number.") from None


def _category_ids(names: set[str]) -> dict[str, int]:
    shipped = {category.name: category.id for category in load_vocabulary("voc").categories}
    if names <= shipped.keys():
        return shipped
    return {name: i for i, name in enumerate(sorted(names), start=1)}
