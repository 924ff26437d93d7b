"""A labelling run as COCO detection JSON, written as a stream: one unit in memory at a time."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TextIO, get_args

import numpy as np

from vildcli import __version__
from vildcli.errors import DataError, RunError
from vildcli.export.summary import ExportSummary
from vildcli.labelling.masks import box_to_polygon, crop_to_rle, mask_to_polygons, object_mask
from vildcli.labelling.plan import image_path, source_roots
from vildcli.labelling.records import OK, ImageRecord, LabelledImage, LabelRecord
from vildcli.labelling.thresholds import RunView, view_run
from vildcli.runs import write_atomically
from vildcli.vocabulary.category import Category

Geometry = Literal["box", "polygon", "rle"]
GEOMETRIES: tuple[Geometry, ...] = get_args(Geometry)


def export_coco(
    run: Path,
    out: Path,
    *,
    geometry: Geometry = "rle",
    conf: float | None = None,
    where: Sequence[str] = (),
    joint: bool = False,
    images_root: Path | None = None,
    max_per_image: int | None = None,
) -> ExportSummary:
    """Write the shown labels of a run's finished units as one COCO file, replacing what is there.

    Image and category ids are the run's own; boxes are cut at the image's borders.

    Args:
        run: a labelling run, complete or not.
        out: the JSON file; whole or not there at all.
        geometry: what `segmentation` holds: the mask as compressed RLE or as polygons, or the box.
        conf: score from which labels are written; default as `display_threshold`.
        where: attributes that labels must have; as for `view_run`.
        joint: rank labels by Pr(v, a | e), which `score` then is beside `category_score`.
            Thresholds stay those of the category.
        images_root: folder that file names are relative to and where the files must be.
        max_per_image: write at most so many labels an image, best first.

    Raises:
        RunError: `run` cannot be read, or `out` cannot be written.
        DataError: a record is damaged, or an image is not under `images_root`.
        VocabularyError: the run's vocabulary lacks an attribute that is asked for.
    """
    view = view_run(run, conf=conf, where=where, joint=joint)
    counts: Counter[str] = Counter()

    def write(path: Path) -> None:
        with path.open("w", encoding="utf-8", newline="\n") as file:
            file.write('{"info": ' + _json(_info(view)) + ',\n"licenses": []')
            _write_list(file, "categories", map(_category, view.vocabulary.categories))
            _write_list(file, "images", _images(view, images_root, counts))
            _write_list(file, "annotations", _annotations(view, geometry, max_per_image, counts))
            file.write("}\n")

    try:
        write_atomically(out, write)
    except OSError as error:
        raise RunError(
            f"{out} cannot be written: {error.strerror or error}.", hint="Choose another --out."
        ) from error
    return ExportSummary(
        out=out,
        images=counts["images"],
        failed=counts["failed"],
        labels=counts["labels"],
        hidden=counts["stored"] - counts["labels"],
        units_done=len(view.units),
        units_total=view.units_total,
    )


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _write_list(file: TextIO, key: str, values: Iterable[dict[str, Any]]) -> None:
    file.write(f',\n"{key}": [')
    for place, value in enumerate(values):
        file.write((",\n" if place else "\n") + _json(value))
    file.write("\n]")


def _info(view: RunView) -> dict[str, Any]:
    return {
        "description": f"Labels of the vocabulary '{view.vocabulary.name}'",
        "contributor": f"vildcli {__version__}",
        "run": view.fingerprint,
    }


def _category(category: Category) -> dict[str, Any]:
    extra = {"synset": category.synset, "frequency": category.frequency}
    return {
        "id": category.id,
        "name": category.name,
        "supercategory": category.parent or "",
        **{key: value for key, value in extra.items() if value is not None},
    }


def _images(
    view: RunView, images_root: Path | None, counts: Counter[str]
) -> Iterator[dict[str, Any]]:
    several = len(source_roots(view.run)) > 1
    for image in view.images():
        if image.status != OK:
            counts["failed"] += 1
            continue
        counts["images"] += 1
        # Two sources may hold the same relative path.
        name = f"{image.source}/{image.path}" if several else image.path
        if images_root is not None:
            name = _found_under(images_root, view.run, image)
        yield {
            "id": image.image_id,
            "file_name": name,
            "width": image.width,
            "height": image.height,
        }


def _found_under(images_root: Path, run: Path, image: ImageRecord) -> str:
    path = image_path(run, image, images_root)
    if not path.exists():
        raise DataError(
            f"{images_root} has no {image.path}.",
            hint="Name the folder that the run's images were moved to as --images.",
        )
    return path.relative_to(images_root).as_posix()


def _annotations(
    view: RunView, geometry: Geometry, max_per_image: int | None, counts: Counter[str]
) -> Iterator[dict[str, Any]]:
    for image in view.labelled_images():
        counts["stored"] += len(image.labels)
        for label in view.shown(image)[:max_per_image]:
            counts["labels"] += 1
            scores = {"score": _short(view.rank(label))}
            if view.joint:
                scores["category_score"] = _short(label.score)
            yield _annotation(counts["labels"], image, label, geometry, scores)


def _annotation(
    number: int,
    image: LabelledImage,
    label: LabelRecord,
    geometry: Geometry,
    scores: dict[str, float],
) -> dict[str, Any]:
    height, width = image.image.height, image.image.width
    x1, x2 = np.clip(label.box[::2], 0, width)
    y1, y2 = np.clip(label.box[1::2], 0, height)
    bbox = [_short(value) for value in (x1, y1, x2 - x1, y2 - y1)]
    area, segmentation = _segmentation(label, height, width, geometry, bbox)
    return {
        "id": number,
        "image_id": image.image.image_id,
        "category_id": label.category_id,
        "bbox": bbox,
        "area": area,
        "segmentation": segmentation,
        "iscrowd": 0,
        **scores,
        "is_base": label.is_base,
        "label": label.label,
        **_attributes(label),
    }


def _attributes(label: LabelRecord) -> dict[str, Any]:
    """The best value of each set as CVAT and FiftyOne read it, and both scores in its likeness."""
    if not label.attributes:
        return {}
    return {
        "attributes": {a.set: a.name for a in label.attributes},
        "attribute_scores": {a.set: _short(a.score) for a in label.attributes},
        "joint_scores": {a.set: _short(a.joint) for a in label.attributes},
    }


def _segmentation(
    label: LabelRecord, height: int, width: int, geometry: Geometry, bbox: list[float]
) -> tuple[float, Any]:
    """The area in pixels and COCO's segmentation; of a box, that of its rectangle."""
    if geometry == "box":
        return bbox[2] * bbox[3], [box_to_polygon(label.box, height, width)]
    crop, corner = object_mask(label.mask, label.box, height, width)
    area = int(crop.sum())
    if geometry == "polygon":
        return area, mask_to_polygons(label.mask, label.box, height, width)
    return area, crop_to_rle(crop, corner, height, width)


def _short(value: float) -> float:
    """The shortest number that is the same float32: records hold no more, and files stay small."""
    return float(str(np.float32(value)))
