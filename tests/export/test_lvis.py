from __future__ import annotations

import json
import logging

import numpy as np
import pytest
from export_run import build_odd_run, cut, select, shown
from official_evaluation import official_lvis
from run_builder import DrawnImage, DrawnLabel, build_run

from vildcli.export.lvis import MOST_NEGATIVES, export_lvis
from vildcli.export.split import Split
from vildcli.labelling.masks import full_frame, object_mask
from vildcli.runs import read_run, write_json
from vildcli.vocabulary.category import Category, Vocabulary


@pytest.fixture
def run(tmp_path):
    return build_odd_run(tmp_path)


def read_lvis(path):
    handlers = list(logging.getLogger().handlers)
    lvis = pytest.importorskip("lvis")
    logging.getLogger().handlers = handlers  # importing lvis configures the root logger
    return lvis.LVIS(str(path))


@pytest.mark.parametrize("geometry", ["polygon", "rle", "box"])
def test_export_lvis__label_by_label(run, tmp_path, geometry):
    summary = export_lvis(select(run), tmp_path / "lvis.json", geometry=geometry)
    lvis = read_lvis(tmp_path / "lvis.json")
    expected = shown(run)
    assert len(lvis.anns) == len(expected) == summary.labels == 7
    for number, (image, label) in enumerate(expected, start=1):
        annotation = lvis.anns[number]
        assert annotation["image_id"] == image.image_id
        assert annotation["category_id"] == label.category_id
        assert np.float32(annotation["score"]) == np.float32(label.score)
        x1, y1, x2, y2 = cut(image, label)
        assert annotation["bbox"] == pytest.approx([x1, y1, x2 - x1, y2 - y1], abs=1e-5)
        size = image.height, image.width
        frame = full_frame(*object_mask(label.mask, label.box, *size), *size)
        mask = lvis.ann_to_mask(annotation).astype(bool)
        if geometry == "rle":
            assert (mask == frame).all()
        elif geometry == "polygon":
            assert (mask & frame).sum() / (mask | frame).sum() > 0.9
        else:
            assert mask.sum() == pytest.approx(annotation["area"], rel=0.1)


def test_export_lvis__what_is_missing_in_an_image(run, tmp_path):
    export_lvis(select(run), tmp_path / "lvis.json")
    images = read_lvis(tmp_path / "lvis.json").imgs
    # Image 1 has apples, a pear, and a straw with a second one below the threshold.
    assert images[1]["neg_category_ids"] == [12]
    assert images[1]["not_exhaustive_category_ids"] == [1203]
    assert images[2]["neg_category_ids"] == [3, 7, 12]
    assert images[5]["neg_category_ids"] == [3, 7, 12, 1203]
    assert 3 not in images  # it could not be read
    export_lvis(select(run, conf=0.0), tmp_path / "lvis.json")
    assert read_lvis(tmp_path / "lvis.json").imgs[1]["not_exhaustive_category_ids"] == []
    export_lvis(select(run, max_per_image=1), tmp_path / "lvis.json")
    assert read_lvis(tmp_path / "lvis.json").imgs[1]["not_exhaustive_category_ids"] == [7]


def test_export_lvis__a_full_image_says_nothing_of_what_is_absent(run, tmp_path):
    header = read_run(run, "labelling")
    header["settings"]["max_det"] = 5
    write_json(run / "run.json", header)
    export_lvis(select(run), tmp_path / "lvis.json")
    images = read_lvis(tmp_path / "lvis.json").imgs
    assert images[1]["neg_category_ids"] == []
    assert images[2]["neg_category_ids"] == [3, 7, 12]


def test_export_lvis__categories(run, tmp_path):
    export_lvis(select(run), tmp_path / "lvis.json")
    cats = read_lvis(tmp_path / "lvis.json").cats
    assert list(cats) == [7, 3, 1203, 12]
    assert cats[7] == {
        "id": 7,
        "name": "apple",
        "synset": "apple.n.01",
        "synonyms": ["apple"],
        "def": "a fruit",
        "frequency": "f",
        "image_count": 2,
        "instance_count": 3,
    }
    assert cats[3]["synonyms"] == ["poire d'été", "pear", "Birne"]
    assert [cats[i]["frequency"] for i in (3, 1203, 12)] == ["r", "r", "r"]
    assert [cats[i]["image_count"] for i in (3, 1203, 12)] == [2, 2, 0]
    assert [cats[i]["instance_count"] for i in (3, 1203, 12)] == [2, 2, 0]


def test_export_lvis__frequencies_by_lvis_rule(tmp_path):
    names = Vocabulary("abc", tuple(Category(i, f"c{i}") for i in (1, 2, 3)))
    seen = [
        DrawnImage(
            f"{i:03}.png",
            (8, 8),
            [DrawnLabel(c, 0.9, (1, 1, 6, 6)) for c in (1, 2, 3) if i < [0, 10, 100, 101][c]],
        )
        for i in range(101)
    ]
    run = build_run(tmp_path / "run", tmp_path / "photos", seen, vocabulary=names, unit_size=64)
    export_lvis(select(run), tmp_path / "lvis.json")
    cats = read_lvis(tmp_path / "lvis.json").cats
    assert [(c["frequency"], c["image_count"]) for c in cats.values()] == [
        ("r", 10),
        ("c", 100),
        ("f", 101),
    ]


def test_export_lvis__negatives_of_a_large_vocabulary_are_drawn(tmp_path):
    names = Vocabulary("many", tuple(Category(i, f"c{i}") for i in range(1, 1001)))
    labels = (DrawnLabel(500, 0.9, (1, 1, 6, 6)),)
    images = [DrawnImage(f"{i}.png", (8, 8), labels) for i in range(3)]
    run = build_run(tmp_path / "run", tmp_path / "photos", images, vocabulary=names)
    export_lvis(select(run), tmp_path / "a.json")
    export_lvis(select(run), tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    drawn = [im["neg_category_ids"] for im in read_lvis(tmp_path / "a.json").imgs.values()]
    for ids in drawn:
        assert len(ids) == len(set(ids)) == MOST_NEGATIVES
        assert 500 not in ids
    assert drawn[0] != drawn[1]


@pytest.mark.filterwarnings("ignore:The 'warn' method is deprecated:DeprecationWarning")
def test_export_lvis__the_official_evaluation_reads_it(run, tmp_path):
    export_lvis(select(run), tmp_path / "lvis.json", geometry="rle")
    content = json.loads((tmp_path / "lvis.json").read_text())
    keys = ("image_id", "category_id", "bbox", "score")
    results = [{key: a[key] for key in keys} for a in content["annotations"]]
    assert official_lvis(content, results, "bbox").results["AP"] == pytest.approx(1)
    # An apple where the machine saw none is a mistake; a second straw may have been left out.
    wrong = {**results[0], "image_id": 2, "score": 0.95}
    assert official_lvis(content, [*results, wrong], "bbox").results["AP"] < 0.99
    straw = next(r for r in results if (r["image_id"], r["category_id"]) == (1, 1203))
    more = {**straw, "bbox": [1, 1, 9, 9], "score": 0.95}
    assert official_lvis(content, [*results, more], "bbox").results["AP"] == pytest.approx(1)


def test_export_lvis__a_file_a_part(run, tmp_path):
    split = Split((("train", 0.2), ("val", 0.8)))
    summary = export_lvis(select(run, split=split), tmp_path / "lvis.json")
    files = [read_lvis(tmp_path / f"lvis-{part}.json") for part in ("train", "val")]
    assert not (tmp_path / "lvis.json").exists()
    ids = [set(file.imgs) for file in files]
    assert ids[0] | ids[1] == {1, 2, 4, 5, 6}
    assert not ids[0] & ids[1]
    assert sum(len(file.anns) for file in files) == summary.labels == 7
    assert (summary.images, summary.failed) == (5, 1)
    counts = [file.cats[7]["instance_count"] for file in files]
    assert counts == [sum(a["category_id"] == 7 for a in file.anns.values()) for file in files]
