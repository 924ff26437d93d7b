from __future__ import annotations

import json

import pytest
from wrong_exports import said


@pytest.mark.parametrize(
    ("geometry", "keys", "value", "problem"),
    [
        ("box", (0, "data"), {}, "task 0 has no data"),
        ("box", (0, "data"), {"image": 3}, "task 0 has no image in its data"),
        ("box", (0, "predictions"), {"a": 1}, "task 0, predictions is no list"),
        ("box", (0, "predictions", 0), {}, "task 0, predictions[0] has no list of results"),
        (
            "box",
            (0, "predictions", 0, "score"),
            7,
            "task 0, predictions[0] has the score 7, not 0 to 1",
        ),
        ("box", "from_name", "", "has no from_name"),
        ("box", "value", None, "has no value"),
        ("box", "score", -1, "has the score -1, not 0 to 1"),
        ("box", "original_width", 0, "has no original_width and original_height"),
        ("box", ("value", "rectanglelabels"), [], "has no rectanglelabels in its value"),
        ("box", ("value", "x"), None, "has no x, y, width and height in its value"),
        (
            "box",
            ("value", "x"),
            90,
            "has a box (86.4 6.5 122.9 50) that leaves its image of 96 x 64",
        ),
        ("box", ("value", "width"), 0, "has a box without area (4.25 6.5 4.25 50)"),
        ("polygon", ("value", "points"), [[1, 2]], "has a polygon without area"),
        ("polygon", ("value", "points"), [1, 2], "has no points in its value"),
        (
            "polygon",
            ("value", "points"),
            [[0, 0], [200, 0], [0, 9]],
            "has a polygon (0 0 192 5.76) that leaves its image of 96 x 64",
        ),
        ("rle", ("value", "rle"), [1, 300], "has no rle of bytes in its value"),
        ("rle", ("value", "rle"), [0, 0, 0, 4], "has a brush of None bytes, not 4 x 96 x 64"),
        ("rle", "original_width", 97, "has a brush of 24576 bytes, not 4 x 97 x 64"),
    ],
)
def test_check_labelstudio__one_thing_wrong(copied, geometry, keys, value, problem):
    path = copied(f"labelstudio-{geometry}")
    content = json.loads(path.read_text(encoding="utf-8"))
    node, inner = content, problem
    if isinstance(keys, str) or isinstance(keys[0], str):
        node = content[0]["predictions"][0]["result"][0]
        inner = f"task 0, predictions[0].result[0] {problem}"
    *above, last = (keys,) if isinstance(keys, str) else keys
    for key in above:
        node = node[key]
    node[last] = value
    path.write_text(json.dumps(content), encoding="utf-8")
    assert inner in said(path)


def test_check_labelstudio__ids_and_empty_brushes(copied):
    path = copied("labelstudio-rle")
    content = json.loads(path.read_text())
    first, *_ = content[0]["predictions"][0]["result"]
    last = content[0]["predictions"][0]["result"][9]
    last["id"] = first["id"]
    bits = f"{96 * 64 * 4:032b}" + "00111" + "0010001101111111"
    for length in (2**14, 2**13):  # nothing but 0
        bits += "1" + "11" + f"{length - 1:016b}" + "00000000"
    bits = bits.ljust(-(-len(bits) // 8) * 8, "0")
    first["value"]["rle"] = [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]
    path.write_text(json.dumps(content))
    assert said(path) == [
        "task 0, predictions[0].result[0] has an empty brush",
        "task 0, predictions[0].result[9] has the id '1-0', "
        "as task 0, predictions[0].result[0] has",
    ]
