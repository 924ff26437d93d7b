"""Records to the formats of other tools. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vildcli.export.coco import export_coco
from vildcli.export.csv import export_csv
from vildcli.export.cvat import LABELS_END, export_cvat
from vildcli.export.fiftyone import export_fiftyone
from vildcli.export.geometry import Geometry
from vildcli.export.labelstudio import CONFIG_END, export_labelstudio
from vildcli.export.lvis import export_lvis
from vildcli.export.parquet import export_parquet
from vildcli.export.selection import Selection
from vildcli.export.summary import ExportSummary
from vildcli.export.voc import export_voc
from vildcli.export.yolo import export_yolo


@dataclass(frozen=True, slots=True)
class Format:
    """One format to export to.

    Attributes:
        export: takes a selection and `out`, and as keywords `geometry` and the `options`.
        name: of the file or folder, where none is given.
        geometries: what it can hold of a region; the first one is the default.
        beside: ends of the names of files that are written beside `name`.
        splits_files: whether a split makes a file a part.
        options: of the command, for this format only.
    """

    export: Callable[..., ExportSummary]
    name: str
    geometries: tuple[Geometry, ...]
    beside: tuple[str, ...] = ()
    splits_files: bool = False
    options: tuple[str, ...] = ()

    def written(self, selection: Selection, out: Path) -> list[Path]:
        """The files, or the folder, that an export to `out` writes."""
        files = [path for path, _ in selection.files(out)] if self.splits_files else [out]
        return [*files, *(out.with_name(out.stem + end) for end in self.beside)]


FORMATS = {
    "coco": Format(export_coco, "coco.json", ("rle", "polygon", "box"), splits_files=True),
    "lvis": Format(export_lvis, "lvis.json", ("polygon", "rle", "box"), splits_files=True),
    "yolo": Format(export_yolo, "yolo", ("box", "polygon"), options=("images", "save_conf")),
    "voc": Format(export_voc, "voc", ("box",), options=("images",)),
    "labelstudio": Format(
        export_labelstudio,
        "labelstudio.json",
        ("box", "polygon", "rle"),
        beside=(CONFIG_END,),
        splits_files=True,
        options=("image_url",),
    ),
    "cvat": Format(
        export_cvat,
        "cvat.xml",
        ("box", "polygon", "rle"),
        beside=(LABELS_END,),
        splits_files=True,
    ),
    "csv": Format(export_csv, "labels.csv", ("box", "polygon", "rle")),
    "parquet": Format(export_parquet, "labels.parquet", ("rle", "polygon", "box")),
    "fiftyone": Format(export_fiftyone, "fiftyone", ("rle", "box"), options=("images",)),
}
