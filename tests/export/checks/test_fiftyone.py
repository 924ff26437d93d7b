from __future__ import annotations

import json

import pytest
from wrong_exports import said


@pytest.mark.parametrize(
    ("keys", "value", "problem"),
    [
        (("filepath",), "", "samples[0] has no filepath"),
        (("filepath",), "data/b.png", "samples[0] has no image data/b.png"),
        (
            ("filepath",),
            "data/a-2.jpg",
            "samples[1] has the filepath 'data/a-2.jpg', as samples[0] has",
        ),
        (("label",), None, "samples[0].predictions[0] has no label"),
        (
            ("bounding_box",),
            [0, 0, 1],
            "samples[0].predictions[0] has the bounding_box [0, 0, 1], not x y width height",
        ),
        (
            ("bounding_box",),
            [0.5, 0, 0.7, 1],
            "samples[0].predictions[0] has the bounding_box [0.5, 0, 0.7, 1], "
            "which leaves its image",
        ),
        (("confidence",), 2, "samples[0].predictions[0] has the confidence 2, not 0 to 1"),
        (
            ("mask",),
            {"$binary": "x"},
            "samples[0].predictions[0] has a mask that is empty or cannot be read",
        ),
    ],
)
def test_check_fiftyone__one_thing_wrong(copied, keys, value, problem):
    path = copied("fiftyone-rle")
    content = json.loads((path / "samples.json").read_text(encoding="utf-8"))
    sample = content["samples"][0]
    node = sample if keys[0] == "filepath" else sample["predictions"]["detections"][0]
    node[keys[0]] = value
    (path / "samples.json").write_text(json.dumps(content), encoding="utf-8")
    assert said(path) == [problem]
    assert said(path / "samples.json") == [problem]


def test_check_fiftyone__metadata(copied):
    path = copied("fiftyone-box")
    (path / "metadata.json").write_text("{}")
    assert said(path) == ["metadata.json has no version or no sample_fields"]
