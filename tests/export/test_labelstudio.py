from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from export_run import ODD, build_odd_run, cut, name_of, select, shown
from pycocotools import mask as coco_mask
from run_builder import DrawnImage, build_run

from vildcli.export.brush import brush_rle
from vildcli.export.labelstudio import export_labelstudio
from vildcli.export.split import Split
from vildcli.labelling.masks import full_frame, object_mask


@pytest.fixture
def run(tmp_path):
    return build_odd_run(tmp_path)


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def regions(tasks):
    """(task, region) of every region, without the choices that hang on it."""
    return [
        (task, result)
        for task in tasks
        for result in task["predictions"][0]["result"]
        if result["type"] != "choices"
    ]


def decode(rle: list[int]) -> np.ndarray:
    """rle-pack's decoder, as its authors describe it."""
    bits = np.unpackbits(np.array(rle, np.uint8))
    place = 0

    def number(size: int) -> int:
        nonlocal place
        place += size
        assert place <= len(bits)
        return int("".join(map(str, bits[place - size : place])), 2)

    total, word = number(32), number(5) + 1
    sizes = [number(4) + 1 for _ in range(4)]
    out: list[int] = []
    while len(out) < total:
        is_run = number(1)
        length = 1 + number(sizes[number(2)])
        values = [number(word)] * length if is_run else [number(word) for _ in range(length)]
        out += values
    assert len(out) == total
    return np.array(out, np.uint8)


def frame_of(image, label):
    size = image.height, image.width
    return full_frame(*object_mask(label.mask, label.box, *size), *size)


def test_export_labelstudio__box_by_box(run, tmp_path):
    summary = export_labelstudio(select(run), tmp_path / "ls.json")
    found = regions(read(tmp_path / "ls.json"))
    assert len(found) == len(shown(run)) == summary.labels == 7
    for (task, region), (image, label) in zip(found, shown(run), strict=True):
        assert task["data"]["image_id"] == image.image_id
        assert task["data"]["file_name"] == image.path
        assert region["id"] == f"{image.image_id}-{label.label}"
        assert (region["type"], region["from_name"], region["to_name"]) == (
            "rectanglelabels",
            "label",
            "image",
        )
        assert (region["original_width"], region["original_height"]) == (image.width, image.height)
        value = region["value"]
        assert value["rectanglelabels"] == [name_of(label.category_id)]
        assert (value["rotation"], region["image_rotation"]) == (0, 0)
        x, y = value["x"] * image.width / 100, value["y"] * image.height / 100
        w, h = value["width"] * image.width / 100, value["height"] * image.height / 100
        assert (x, y, x + w, y + h) == pytest.approx(cut(image, label), abs=1e-4)
        assert np.float32(region["score"]) == np.float32(label.score)


def test_export_labelstudio__predictions(run, tmp_path):
    export_labelstudio(select(run), tmp_path / "ls.json")
    tasks = read(tmp_path / "ls.json")
    fingerprint = select(run).view.fingerprint
    assert {p["model_version"] for t in tasks for p in t["predictions"]} == {
        f"vildcli 0.1.0 {fingerprint}"
    }
    assert tasks[0]["predictions"][0]["score"] == pytest.approx((0.9 + 0.7 + 0.6 + 1 / 3) / 4)
    empty = tasks[3]
    assert empty["data"]["file_name"] == "empty.png"
    assert empty["predictions"] == [{"model_version": f"vildcli 0.1.0 {fingerprint}", "result": []}]


def test_export_labelstudio__attributes_hang_on_their_region(run, tmp_path):
    export_labelstudio(select(run), tmp_path / "ls.json")
    results = read(tmp_path / "ls.json")[0]["predictions"][0]["result"]
    (_, best), *_ = shown(run)
    chosen = [r for r in results if r["type"] == "choices" and r["id"] == results[0]["id"]]
    assert [(r["from_name"], r["value"], r["score"]) for r in chosen] == [
        ("colour", {"choices": ["red"]}, 0.75),
        ("attribute_label", {"choices": ["old"]}, 0.1),
    ]
    assert len(chosen) == len(best.attributes)
    # Label Studio makes the region of the first result with its id.
    assert [r["type"] for r in results[:3]] == ["rectanglelabels", "choices", "choices"]


def test_export_labelstudio__the_configuration_knows_every_name(run, tmp_path):
    for geometry in ("box", "polygon", "rle"):
        export_labelstudio(select(run), tmp_path / "ls.json", geometry=geometry)
        view = ElementTree.parse(tmp_path / "ls-config.xml").getroot()
        known = {}
        for control in (*view.iter("Choices"), *view.findall("*[@toName]")):
            assert control.get("toName") == view.find("Image").get("name") == "image"
            known[control.get("name")] = control.tag.lower(), {v.get("value") for v in control}
        for task in read(tmp_path / "ls.json"):
            for result in task["predictions"][0]["result"]:
                kind, values = known[result["from_name"]]
                assert kind == result["type"]
                assert set(result["value"][kind]) <= values
        ids = {label.get("value"): label.get("category") for label in view.iter("Label")}
        assert ids == {category.name: str(category.id) for category in ODD.categories}
        assert view.find("Choices").get("perRegion") == "true"


def test_export_labelstudio__brushes(run, tmp_path):
    export_labelstudio(select(run), tmp_path / "ls.json", geometry="rle")
    for (_, region), (image, label) in zip(
        regions(read(tmp_path / "ls.json")), shown(run), strict=True
    ):
        assert (region["type"], region["value"]["format"]) == ("brushlabels", "rle")
        pixels = decode(region["value"]["rle"]).reshape(image.height, image.width, 4)
        assert (pixels == 255 * frame_of(image, label)[:, :, None]).all()


def test_export_labelstudio__polygons(run, tmp_path):
    export_labelstudio(select(run), tmp_path / "ls.json", geometry="polygon")
    for (_, region), (image, label) in zip(
        regions(read(tmp_path / "ls.json")), shown(run), strict=True
    ):
        points = np.array(region["value"]["points"]) / 100 * (image.width, image.height)
        assert region["value"]["closed"] is True
        flat = [points.ravel().tolist()]
        drawn = coco_mask.decode(coco_mask.frPyObjects(flat, image.height, image.width))[:, :, 0]
        frame = frame_of(image, label)
        assert (drawn & frame).sum() / (drawn | frame).sum() > 0.9


@pytest.mark.parametrize(
    ("height", "width", "seed"), [(1, 1, 0), (5, 7, 1), (40, 3, 2), (130, 150, 3)]
)
def test_brush_rle__any_mask(height, width, seed):
    rng = np.random.default_rng(seed)
    for threshold in (-1, 0.1, 0.5, 0.9):
        crop = rng.random((height, width)) > threshold
        crop[0, 0] = True
        pixels = decode(brush_rle(crop, (2, 1), height + 3, width + 4))
        frame = full_frame(crop, (2, 1), height + 3, width + 4)
        assert (pixels.reshape(height + 3, width + 4, 4) == 255 * frame[:, :, None]).all()
        whole = decode(brush_rle(crop, (0, 0), height, width))
        assert (whole.reshape(height, width, 4)[:, :, 0] == 255 * crop).all()


def test_brush_rle__known_bytes():
    """Two pixels, the second one set: 8 bytes of 8 bits; run sizes 3, 4, 8, 16; two runs of 4."""
    bits = f"{8:032b}" + "00111" + "0010" + "0011" + "0111" + "1111"
    bits += "1" + "00" + "011" + "00000000" + "1" + "00" + "011" + "11111111"
    bits = bits.ljust(-(-len(bits) // 8) * 8, "0")
    expected = [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]
    assert brush_rle(np.array([[True]]), (1, 0), 1, 2) == expected


@pytest.mark.parametrize(
    ("prefix", "read_back"),
    [
        (None, lambda url: parse_qs(urlsplit(url).query)["d"][0]),
        ("https://host/photos/", lambda url: None),
        ("s3://bucket/photos/", lambda url: url.removeprefix("s3://bucket/photos/")),
    ],
)
def test_export_labelstudio__urls(run, tmp_path, prefix, read_back):
    choices = {} if prefix is None else {"image_url": prefix}
    export_labelstudio(select(run), tmp_path / "ls.json", **choices)
    urls = [task["data"]["image"] for task in read(tmp_path / "ls.json")]
    last = urls[-1]
    if prefix == "https://host/photos/":
        assert last == "https://host/photos/images/in%20the%20dark%2C%20%C3%A9%26%C3%BC.png"
    else:
        assert read_back(last) == "images/in the dark, é&ü.png"
        assert last.startswith(prefix or "/data/local-files/?d=")


def test_export_labelstudio__joint_scores(run, tmp_path):
    export_labelstudio(select(run, where=["colour=red"], joint=True), tmp_path / "ls.json")
    (_, first), _ = regions(read(tmp_path / "ls.json"))
    assert first["score"] == pytest.approx(0.675)
    assert first["meta"] == {"category_score": 0.9}


def test_export_labelstudio__no_label_and_a_split(run, tmp_path):
    bare = build_run(tmp_path / "bare", tmp_path / "p", [DrawnImage("a.png")], finished=1)
    export_labelstudio(select(bare), tmp_path / "bare.json")
    assert len(read(tmp_path / "bare.json")) == 1
    split = Split((("train", 0.2), ("val", 0.8), ("none", 0.0)))
    export_labelstudio(select(run, split=split), tmp_path / "ls.json")
    parts = [read(tmp_path / f"ls-{part}.json") for part in split.names]
    assert sum(map(len, parts)) == 5
    assert parts[2] == []
