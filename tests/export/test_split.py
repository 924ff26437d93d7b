from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import replace

from export_run import build_odd_run, select

from vildcli.export.split import Split

SPLIT = Split((("train", 0.7), ("val", 0.2), ("test", 0.1)))


def images(tmp_path, number):
    image = next(select(build_odd_run(tmp_path)).images())
    return [
        replace(image, image_id=i, sha256=hashlib.sha256(str(i).encode()).hexdigest())
        for i in range(number)
    ]


def test_split__shares(tmp_path):
    counts = Counter(SPLIT.part_of(image) for image in images(tmp_path, 10_000))
    for name, share in SPLIT.shares:
        assert abs(counts[name] / 10_000 - share) < 0.015


def test_split__follows_from_the_bytes_alone(tmp_path):
    for image in images(tmp_path, 50):
        other = replace(image, image_id=9, path="elsewhere.png", source="more", mtime_ns=5)
        assert SPLIT.part_of(image) == SPLIT.part_of(other)


def test_split__shares_whose_sum_is_not_quite_one(tmp_path):
    last = replace(images(tmp_path, 1)[0], sha256="f" * 64)
    assert Split((("a", 0.1),) * 3 + (("b", 0.7 - 1e-9),)).part_of(last) == "b"


def test_selection__parts_are_a_partition(tmp_path):
    selection = select(build_odd_run(tmp_path), split=SPLIT)
    parts = [
        {im.image_id for im in part.images()} for _, part in selection.files(tmp_path / "x.json")
    ]
    assert sorted(i for part in parts for i in part) == [1, 2, 4, 5, 6]
    names = [path.name for path, _ in selection.files(tmp_path / "x.json")]
    assert names == ["x-train.json", "x-val.json", "x-test.json"]
