"""vildcli from Python: a dozen names over the functions that the commands call (docs/python.md).

`from vildcli import label_images` and the others load what they need when they are used: importing
vildcli is quick, and reading or exporting labels needs no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vildcli.errors import DataError, RunError
from vildcli.vocabulary.category import Category, Vocabulary

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray
    from PIL import Image

    from vildcli.export.geometry import Geometry
    from vildcli.export.summary import ExportSummary
    from vildcli.labelling.batches import RegionDetector
    from vildcli.labelling.model import LoadedModel, OpenedModel
    from vildcli.labelling.summary import LabellingSummary
    from vildcli.merging.annotations import Existing
    from vildcli.merging.summary import MergeSummary
    from vildcli.types import Regions

    Picture = str | Path | Image.Image | NDArray[np.uint8]

Words = Vocabulary | str | Path | Sequence[str]


@dataclass(frozen=True, slots=True)
class ImageLabels:
    """What one image shows, best first.

    Attributes:
        names: K names of the vocabulary.
        category_ids: [K] int64.
        scores: [K] float32 in 0-1.
        boxes: [K, 4] float32, x1 y1 x2 y2 in pixels of the upright original image.
        regions: [K] int64, rows of the image's `Regions`.
        attributes: K mappings of each attribute set to its best value and the score of that.
        size: width and height of the image, pixels.
    """

    names: tuple[str, ...]
    category_ids: NDArray[np.int64]
    scores: NDArray[np.float32]
    boxes: NDArray[np.float32]
    regions: NDArray[np.int64]
    attributes: tuple[dict[str, tuple[str, float]], ...]
    size: tuple[int, int]
    _masks: NDArray[np.uint8]
    _mask_boxes: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.names)

    def masks(self) -> NDArray[np.bool_]:
        """The pixels of each object: [K, H, W] bool."""
        import numpy as np

        from vildcli.labelling.masks import full_frame, object_mask

        width, height = self.size
        frames = [
            full_frame(*object_mask(mask, tuple(box), height, width), height, width)
            for mask, box in zip(self._masks, self._mask_boxes.tolist(), strict=True)
        ]
        return np.stack(frames) if frames else np.zeros((0, height, width), bool)

    def table(self) -> pa.Table:
        """One row a label: category_id, category, score, x1, y1, x2, y2, then of each attribute
        set its value and score. K rows.
        """
        import pyarrow as pa

        columns: dict[str, Any] = {
            "category_id": self.category_ids,
            "category": pa.array(self.names, pa.string()),
            "score": self.scores,
        }
        columns |= {name: self.boxes[:, k] for k, name in enumerate(("x1", "y1", "x2", "y2"))}
        for name in self.attributes[0] if self.attributes else ():
            columns[name] = [found[name][0] for found in self.attributes]
            columns[f"{name}_score"] = pa.array([a[name][1] for a in self.attributes], pa.float32())
        return pa.table(columns)

    def draw(self, image: Picture) -> Image.Image:
        """The image with boxes, masks, names and scores; RGB, of the same size."""
        from PIL import Image

        from vildcli.review.drawing import draw_labels

        picture = Image.fromarray(_pixels(image))
        return draw_labels(
            picture, self.boxes, list(self.masks()), self.names, self.scores.tolist()
        )


@dataclass(frozen=True, slots=True)
class LoadedDetector:
    """A model in memory: it finds regions once, and names them by any vocabulary."""

    model: LoadedModel
    _opened: dict[str, OpenedModel] = field(default_factory=dict)

    def find_regions(self, image: Picture) -> Regions:
        """The regions of an image, before any word is said.

        Args:
            image: a file, a PIL image, or [H, W, 3] uint8 RGB.

        Returns:
            boxes [R, 4], objectness [R], masks [R, 28, 28] and region embeddings [R, D], by falling
            objectness; see `vildcli.types.Regions`.

        Raises:
            DataError: the file cannot be read, or the array is no image.
        """
        return self._found(image, self.model.parts.detector)

    def _found(self, image: Picture, detector: RegionDetector) -> Regions:
        import torch

        from vildcli.labelling.stored import as_stored

        pixels = torch.from_numpy(_pixels(image)).permute(2, 0, 1)
        (found,) = detector.regions([pixels])
        size = (int(pixels.shape[2]), int(pixels.shape[1]))
        return as_stored(replace(found, size=size), self.model.options.region_dtype)

    def label(
        self, image: Picture | Regions, vocabulary: Words, *, conf: float | None = None
    ) -> ImageLabels:
        """Name what an image shows, or regions that `find_regions` found in it.

        Args:
            image: as for `find_regions`, or what that gave.
            vocabulary: a `Vocabulary`, a list of names, or the name or file of a vocabulary.
            conf: score from which labels count; default the vocabulary's thresholds, the model's,
                0.3.

        Raises:
            VocabularyError: a name twice, or a vocabulary that cannot be read.
            ModelError: a supervised model was not trained on one of the names.
        """
        from vildcli.labelling.detectors import with_later_masks
        from vildcli.types import Regions

        detector = with_later_masks(self.model.parts.detector)
        regions = image if isinstance(image, Regions) else self._found(image, detector)
        words = as_vocabulary(vocabulary)
        return _image_labels(regions, self.open(words), words, conf)

    def open(self, vocabulary: Vocabulary) -> OpenedModel:
        """The model with its labeller for a vocabulary, made once."""
        key = f"{vocabulary.name} {vocabulary.fingerprint()}"
        if key not in self._opened:
            self._opened[key] = self.model.open(vocabulary)
        return self._opened[key]


def as_vocabulary(words: Words) -> Vocabulary:
    """A vocabulary as it is, of a list of names, or read from a file or by a shipped name.

    Raises:
        VocabularyError: a name twice, none at all, or a vocabulary that cannot be read.
    """
    from vildcli.vocabulary.files import load_vocabulary

    if isinstance(words, Vocabulary):
        return words
    if isinstance(words, (str, Path)):
        return load_vocabulary(words)
    return Vocabulary("names", tuple(Category(i, name) for i, name in enumerate(words, start=1)))


def load_detector(model: str | Path = "clip-on-crops", **options: Any) -> LoadedDetector:
    """Load a model.

    Args:
        model: a model file, a training run, or clip-on-crops.
        options: of `vildcli detect`, such as `teacher`, `proposals`, `regions`, `prompts`,
            `context`, `fusion`, `floor`, `max_det`, `nms`, `device`, `offline`; see
            `vildcli.labelling.options.LabellingOptions`.

    Raises:
        ModelError: weights are missing or do not fit.
    """
    from vildcli.labelling.model import load_labelling_model
    from vildcli.labelling.options import LabellingOptions

    return LoadedDetector(load_labelling_model(LabellingOptions(model=str(model), **options)))


def label_images(
    sources: str | Path | Iterable[str | Path],
    vocabulary: Words,
    *,
    out: str | Path,
    detector: LoadedDetector | None = None,
    keep_regions: bool = False,
    batch: int = 8,
    workers: int = 2,
    limit: int | None = None,
    add_new: bool = False,
    force: bool = False,
) -> LabellingSummary:
    """Label folders, image files, archives or list files into a run, as `vildcli detect` does.

    A run that was interrupted continues when it is called again; memory does not grow with it.

    Args:
        sources: one or several.
        out: folder of the run: absent, empty, or of the same settings and sources.
        detector: default clip-on-crops.
        keep_regions: store every region's embeddings, for `relabel`.
        batch: images a batch.
        workers: threads that decode images.
        limit: at most so many images.
        add_new: append images that the run does not have yet.
        force: delete another vildcli folder at `out` first.

    Returns:
        What the run holds: `run`, `images`, `labelled`, `failed`, `labels`, ….

    Raises:
        NothingToDoError: no image found.
        RunError: `out` holds something else.
    """
    from vildcli.labelling import label
    from vildcli.labelling.run import open_labelling_run, write_failures
    from vildcli.labelling.sources import find_images

    given = [sources] if isinstance(sources, (str, Path)) else sources
    found = find_images([str(source) for source in given])
    words = as_vocabulary(vocabulary)
    opened = (detector or load_detector()).open(words)
    run = open_labelling_run(
        Path(out),
        found,
        {**opened.settings, "keep_regions": keep_regions},
        words,
        arguments={
            "default_conf": opened.default_conf,
            "batch": batch,
            "provenance": opened.provenance,
        },
        force=force,
        add_new=add_new,
        limit=limit,
    )
    if keep_regions:
        opened.save_head(run.folder)
    job = label.LabellingJob(keep_regions=keep_regions, batch_size=batch, workers=workers)
    summary = label.label_images(run.folder, opened, job, skipped=found.skipped.total())
    write_failures(run.folder)
    return summary


def relabel(
    run: str | Path,
    vocabulary: Words,
    *,
    out: str | Path,
    force: bool = False,
    **options: Any,
) -> LabellingSummary:
    """Label the stored regions of a run with another vocabulary: no image, no detector.

    Args:
        run: made with `keep_regions`.
        vocabulary: a `Vocabulary`, a list of names, or the name or file of a vocabulary.
        out: folder of the new run.
        force: delete another vildcli folder at `out` first.
        options: of `vildcli relabel`, such as `context`, `fusion`, `floor`, `max_det`, `nms`.

    Raises:
        RunError: the run has no stored embeddings, or `out` cannot be used.
    """
    from vildcli.labelling.options import LabellingOptions
    from vildcli.labelling.relabel import relabel_run
    from vildcli.labelling.words import open_stored_labeller

    words = as_vocabulary(vocabulary)
    labeller, settings = open_stored_labeller(Path(run), words, LabellingOptions(**options))
    return relabel_run(
        Path(run), labeller, Path(out), settings=settings, vocabulary=words, force=force
    )


def read_labels(
    run: str | Path,
    *,
    conf: float | None = None,
    where: Sequence[str] = (),
    joint: bool = False,
    geometry: Geometry = "box",
) -> pa.Table:
    """The shown labels of a run as a table, one row a label; `.to_pandas()` makes a data frame.

    Args:
        run: a labelling run, complete or not.
        conf: score from which labels are shown; default the vocabulary's, the model's, 0.3. 0 gives
            all that are stored.
        where: such as `["colour=red"]`.
        joint: rank by Pr(category, attribute).
        geometry: `polygon` or `rle` adds a column `segmentation`.

    Returns:
        The columns of docs/exports.md, "CSV, Parquet": image_id, file_name, width, height, label,
        category_id, category, is_base, score, text_score, image_score, objectness, x1, y1, x2, y2
        and three for each attribute set.

    Raises:
        RunError: not a labelling run, or nothing in it is finished.
    """
    from collections import Counter

    import pyarrow as pa

    from vildcli.export.selection import Selection
    from vildcli.export.table import table_rows, table_schema
    from vildcli.labelling.thresholds import view_run

    selection = Selection(view_run(Path(run), conf=conf, where=where, joint=joint))
    rows = list(table_rows(selection, geometry, Counter()))
    return pa.Table.from_pylist(rows, schema=table_schema(selection, geometry))


def export_run(
    run: str | Path,
    to: str,
    out: str | Path,
    *,
    geometry: Geometry | None = None,
    conf: float | None = None,
    where: Sequence[str] = (),
    joint: bool = False,
    max_per_image: int | None = None,
    images_root: str | Path | None = None,
    force: bool = False,
    **options: Any,
) -> ExportSummary:
    """Write a run's labels for another tool, as `vildcli export` does.

    Args:
        to: coco, lvis, yolo, voc, labelstudio, cvat, csv, parquet or fiftyone.
        out: the file or folder.
        geometry: box, polygon or rle; default the format's.
        conf, where, joint: which labels, as for `read_labels`.
        max_per_image: at most so many labels an image, the best.
        images_root: folder that the images have moved to.
        force: replace what is there.
        options: of the format: `images` (`link` or `copy`), `save_conf`, `image_url`.

    Raises:
        RunError: `out` exists or cannot be written, or the format holds nothing of the kind.
    """
    from vildcli.export import FORMATS
    from vildcli.export.selection import Selection
    from vildcli.export.writing import refuse_existing
    from vildcli.labelling.thresholds import view_run

    if to not in FORMATS:
        raise RunError(f"{to!r} is no format to export to.", hint=f"Take {', '.join(FORMATS)}.")
    form = FORMATS[to]
    if geometry is not None and geometry not in form.geometries:
        raise RunError(f"{to} holds no {geometry}.", hint=f"Take {' or '.join(form.geometries)}.")
    if other := [name for name in options if name not in form.options]:
        raise RunError(f"{to} takes no {other[0]}.", hint=f"It takes {_or_none(form.options)}.")
    root = None if images_root is None else Path(images_root)
    view = view_run(Path(run), conf=conf, where=where, joint=joint)
    selection = Selection(view, images_root=root, max_per_image=max_per_image)
    if not force:
        refuse_existing(form.written(selection, Path(out)))
    geometry = geometry or form.geometries[0]
    return form.export(selection, Path(out), geometry=geometry, **options)


def evaluate(
    subject: str | Path,
    truth: str | Path,
    *,
    images: str | Path | None = None,
    protocol: str | None = None,
    conf: float | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Average precision of a labelling run or a model, as `vildcli evaluate --json` says it.

    Args:
        subject: folder of a run, or a model as for `load_detector`.
        truth: COCO or LVIS JSON; of VOC, its folder or a list.
        images: folder of the truth's images; needed for a model.
        protocol: lvis, coco, coco-48-17, coco-65-15, voc or objects365; default by the file.
        conf: of a run, only labels from this score on.
        options: of a model, as for `load_detector`.

    Returns:
        `results`: metrics in 0-1 for boxes and masks, such as `["results"]["Box AP"]["AP50"]`; and
        `protocol`, `images`, `objects`, `notes`, ….

    Raises:
        DataError: the truth cannot be read, or has none of the run's images or names.
    """
    from vildcli.evaluation.report import report_on
    from vildcli.evaluation.report_files import report_values
    from vildcli.evaluation.run import read_evaluated_run, subject_of_run
    from vildcli.evaluation.truth import load_truth
    from vildcli.labelling.plan import PLAN_FILE

    wanted = load_truth(Path(truth), protocol)
    folder = None if images is None else Path(images)
    if (Path(subject) / PLAN_FILE).is_file():
        found = read_evaluated_run(Path(subject), wanted, conf=conf, images=folder)
        return report_values(report_on(subject_of_run(found, images=folder)))
    from vildcli.evaluation.model import open_subject, predict_subject
    from vildcli.labelling.options import LabellingOptions

    if folder is None:
        raise DataError("A model is evaluated on images.", hint="Name their folder as images.")
    opened, seen = open_subject(wanted, LabellingOptions(model=str(subject), **options))
    return report_values(report_on(predict_subject(wanted, opened, seen, folder)))


def merge(
    inputs: Sequence[str | Path],
    out: str | Path,
    *,
    existing: Existing = "merge",
    nms_iou: float = 0.6,
    conf: float | None = None,
    images_root: str | Path | None = None,
    renumber: bool = False,
    force: bool = False,
) -> MergeSummary:
    """Merge labelling runs and annotation files into one, as `vildcli merge` does.

    Args:
        inputs: runs, and COCO, LVIS or VOC annotations.
        out: a `.json` file for an annotation set, else the folder of a labelling run.
        existing, conf, images_root: for an annotation set; see docs/merging.md.
        nms_iou: overlap above which the better of two inputs' labels stays.
        renumber: give free ids where one id stands for two things.
        force: replace what is there.

    Raises:
        VildError: inputs that do not go together, or an `out` that is taken.
    """
    from vildcli.merging.annotations import merge_annotations
    from vildcli.merging.inputs import open_inputs, runs_only
    from vildcli.merging.runs import merge_runs

    opened, target = open_inputs([Path(path) for path in inputs], conf=conf), Path(out)
    if target.suffix.lower() != ".json":
        runs = runs_only(opened, target)
        return merge_runs(runs, target, nms_iou=nms_iou, renumber=renumber, force=force)
    return merge_annotations(
        opened,
        target,
        existing=existing,
        nms_iou=nms_iou,
        renumber=renumber,
        images_root=None if images_root is None else Path(images_root),
        force=force,
    )


def _pixels(image: Picture) -> NDArray[np.uint8]:
    """[H, W, 3] uint8 RGB, upright."""
    import numpy as np
    from PIL import Image

    from vildcli.data.images import picture_pixels, read_image

    if isinstance(image, (str, Path)):
        return read_image(Path(image)).pixels
    if isinstance(image, Image.Image):
        return picture_pixels(image)
    array = np.array(image)  # torch wants one that may be written to
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or not array.size:
        raise DataError(
            f"An array of {array.dtype} with the shape {array.shape} is no image.",
            hint="Give [H, W, 3] uint8, RGB.",
        )
    return array


def _image_labels(
    regions: Regions, opened: OpenedModel, vocabulary: Vocabulary, conf: float | None
) -> ImageLabels:
    from vildcli.labelling.thresholds import display_threshold

    labels = opened.labeller.label(regions)
    entries = {entry.id: entry for entry in (*vocabulary.categories, *vocabulary.parents)}
    scores, ids = labels.scores.numpy(), labels.category_ids.numpy()
    shown = [
        row
        for row, (id_, score) in enumerate(zip(ids.tolist(), scores.tolist(), strict=True))
        if score >= display_threshold(entries[id_], conf=conf, default_conf=opened.default_conf)
    ]
    rows = labels.regions[shown]
    mask_boxes = regions.boxes[rows].numpy()
    assert regions.size is not None, "find_regions says it"
    return ImageLabels(
        names=tuple(entries[id_].name for id_ in ids[shown].tolist()),
        category_ids=ids[shown],
        scores=scores[shown],
        boxes=mask_boxes if labels.boxes is None else labels.boxes[shown].numpy(),
        regions=rows.numpy(),
        attributes=tuple(
            {a.set: (a.names[row], float(a.scores[row])) for a in labels.attributes}
            for row in shown
        ),
        size=regions.size,
        _masks=regions.masks[rows].numpy(),
        _mask_boxes=mask_boxes,
    )


def _or_none(names: Sequence[str]) -> str:
    return " and ".join(names) or "none"
