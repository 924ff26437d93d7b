"""What is stored of one image: rows and record batches in the schemas of `records`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from vildcli.data.images import DecodedImage
from vildcli.errors import DataError
from vildcli.labelling.plan import PlannedImage
from vildcli.labelling.records import FAILED, OK, region_schema
from vildcli.labelling.stored import RegionType, to_int8
from vildcli.types import LaterMasks, RegionLabels, Regions


def image_row(planned: PlannedImage, decoded: DecodedImage) -> dict[str, Any]:
    """The row of an image that can be labelled, its embedding left out."""
    return {
        "image_id": planned.image_id,
        "source": planned.source,
        "path": planned.path,
        "width": decoded.width,
        "height": decoded.height,
        "sha256": decoded.sha256,
        "bytes": decoded.bytes,
        "mtime_ns": decoded.mtime_ns,
        "status": OK,
        "reason": None,
    }


def failed_row(planned: PlannedImage, error: DataError) -> dict[str, Any]:
    """The row of an image that could not be read."""
    return {
        "image_id": planned.image_id,
        "source": planned.source,
        "path": planned.path,
        "width": 0,
        "height": 0,
        "sha256": "",
        "bytes": planned.bytes,
        "mtime_ns": planned.mtime_ns,
        "status": FAILED,
        "reason": str(error),
        "embedding": None,
    }


def image_embedding(regions: Regions) -> NDArray[np.float16] | None:
    """What an image shows as one embedding [D], unit norm, float16: to find images like it.

    The mean of its regions' embeddings, weighted by objectness; of the image side where there is
    one. None for an image without regions.
    """
    side = regions.text_side if regions.image_side is None else regions.image_side
    if side is None or not len(regions):
        return None
    mean = normalize(regions.objectness @ side.float(), dim=0).half()
    embedding: NDArray[np.float16] = mean.numpy()
    return embedding


def region_batch(
    image_id: int, regions: Regions, labels: RegionLabels, keep: bool, kind: RegionType
) -> pa.RecordBatch:
    """The regions of an image: every one with its embeddings, or the labelled ones without."""
    named = torch.from_numpy(np.unique(labels.regions.numpy()))
    rows = torch.arange(len(regions)) if keep else named
    schema, count = region_schema(kind), len(rows)
    sides = {"text_side": regions.text_side, "image_side": regions.image_side}
    columns = {
        "image_id": pa.array(np.full(count, image_id)),
        "region": pa.array(rows.numpy().astype(np.int32)),
        "proposal": _lists(regions.proposals[rows], schema.field("proposal").type),
        "box": _lists(regions.boxes[rows], schema.field("box").type),
        "objectness": pa.array(regions.objectness[rows].numpy()),
        "mask": _masks(regions.masks[rows], schema.field("mask").type),
        **{
            name: _side(side if keep else None, rows, schema.field(name).type)
            for name, side in sides.items()
        },
        "box_code": _box_codes(regions.box_codes if keep else None, rows, schema),
    }
    return pa.RecordBatch.from_arrays([columns[name] for name in schema.names], schema=schema)


def _side(side: Tensor | None, rows: Tensor, kind: pa.DataType) -> pa.Array:
    if side is None:
        return pa.nulls(len(rows), kind)
    is_small = pa.types.is_int8(kind.value_type)
    return _lists(to_int8(side[rows]) if is_small else side[rows].half(), kind)


def _box_codes(codes: Tensor | None, rows: Tensor, schema: pa.Schema) -> pa.Array:
    kind = schema.field("box_code").type
    return pa.nulls(len(rows), kind) if codes is None else _lists(codes[rows], kind)


def _lists(values: Tensor, kind: pa.DataType) -> pa.Array:
    """Rows [R, D] as lists, of a fixed length or not."""
    flat = pa.array(values.reshape(-1).numpy(), kind.value_type)
    if pa.types.is_fixed_size_list(kind):
        return pa.FixedSizeListArray.from_arrays(flat, type=kind)
    offsets = np.arange(len(values) + 1, dtype=np.int32) * values.shape[1]
    return pa.ListArray.from_arrays(pa.array(offsets), flat, type=kind)


def _masks(masks: Tensor | LaterMasks, kind: pa.DataType) -> pa.Array:
    buffer = pa.py_buffer(np.ascontiguousarray(masks.numpy()))
    return pa.FixedSizeBinaryArray.from_buffers(kind, len(masks), [None, buffer])


def label_rows(image_id: int, labels: RegionLabels) -> Iterator[dict[str, Any]]:
    """One row a label of an image, best first."""
    columns: Mapping[str, Tensor | None] = {
        "region": labels.regions,
        "category_id": labels.category_ids,
        "is_base": labels.is_base,
        "score": labels.scores,
        "text_score": labels.text_scores,
        "image_score": labels.image_scores,
        "box": labels.boxes,
    }
    values = {k: v.tolist() if v is not None else [None] * len(labels) for k, v in columns.items()}
    attributes = _attribute_rows(labels)
    for place, row in enumerate(zip(*values.values(), strict=True)):
        yield {
            "image_id": image_id,
            "label": place,
            **dict(zip(values, row, strict=True)),
            "attributes": attributes[place],
        }


def _attribute_rows(labels: RegionLabels) -> list[list[dict[str, Any]]]:
    """For each label one entry an attribute set."""
    rows: list[list[dict[str, Any]]] = [[] for _ in range(len(labels))]
    for found in labels.attributes:
        numbers = zip(found.names, found.scores.tolist(), found.joint_scores.tolist(), strict=True)
        for row, (name, score, joint) in zip(rows, numbers, strict=True):
            row.append({"set": found.set, "name": name, "score": score, "joint": joint})
    return rows
