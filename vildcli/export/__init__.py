"""Records to the formats of other tools. Nothing here imports torch."""

from __future__ import annotations

from vildcli.export.coco import export_coco

EXPORTERS = {"coco": export_coco}
