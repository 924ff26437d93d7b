"""The shipped vocabularies against the facts they were made from."""

from __future__ import annotations

import csv
import json
import os
from collections import Counter
from pathlib import Path

import pytest

from vildcli.assets import vocabulary_file
from vildcli.vocabulary.files import load_vocabulary, save_vocabulary
from vildcli.vocabulary.names import match_key, resolve_base

SHARED = Path(os.environ.get("VILDCLI_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))
needs_shared_data = pytest.mark.skipif(
    not SHARED.is_dir(), reason=f"no shared data at {SHARED}; set VILDCLI_SHARED_DATA"
)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("lvis-v1", 1203),
        ("coco", 80),
        ("voc", 20),
        ("objects365", 365),
        ("cub200", 200),
        ("lvis-866", 866),
        ("coco-48", 48),
        ("coco-17", 17),
        ("coco-65", 65),
        ("coco-15", 15),
    ],
)
def test_every_shipped_vocabulary_is_as_we_would_write_it(tmp_path, name, count):
    vocabulary = load_vocabulary(name)
    assert (len(vocabulary), vocabulary.name) == (count, name)
    save_vocabulary(vocabulary, tmp_path / "again.yaml")
    assert (tmp_path / "again.yaml").read_bytes() == vocabulary_file(name).read_bytes()


@needs_shared_data
def test_lvis_is_lvis_own():
    theirs = json.loads((SHARED / "lvis" / "lvis_v1_categories.json").read_text())
    ours = load_vocabulary("lvis-v1").categories
    keys = ("id", "name", "synset", "definition", "frequency")
    assert [tuple(getattr(c, k) for k in keys) for c in ours] == [
        tuple(c[k] for k in keys) for c in theirs
    ]
    assert [{match_key(n) for n in (c.name, *c.synonyms)} for c in ours] == [
        {match_key(n) for n in (c["name"], *c["synonyms"])} for c in theirs
    ]
    assert Counter(c.frequency for c in ours) == {"r": 337, "c": 461, "f": 405}


def test_the_base_lists_are_subsets_with_the_same_ids():
    for part, whole in (("lvis-866", "lvis-v1"), ("coco-48", "coco"), ("coco-65", "coco")):
        by_id = load_vocabulary(whole).by_id()
        assert all(by_id[c.id].name == c.name for c in load_vocabulary(part).categories)
    rare = {c.id for c in load_vocabulary("lvis-v1").categories if c.frequency == "r"}
    assert not rare & load_vocabulary("lvis-866").by_id().keys()
    for base, novel in (("coco-48", "coco-17"), ("coco-65", "coco-15")):
        assert not load_vocabulary(base).by_id().keys() & load_vocabulary(novel).by_id().keys()


@needs_shared_data
@pytest.mark.parametrize("split", ["coco_48_17", "coco_65_15"])
def test_the_coco_splits_are_the_published_ones(split):
    published = json.loads((SHARED / "splits" / f"{split}.json").read_text())
    _, base, novel = split.split("_")
    for part, name in (("base", f"coco-{base}"), ("novel", f"coco-{novel}")):
        assert [(c.id, c.name) for c in load_vocabulary(name).categories] == [
            (c["id"], c["name"]) for c in published[part]
        ]


def test_coco_has_its_official_ids_and_synsets():
    coco = load_vocabulary("coco")
    ids = [c.id for c in coco.categories]
    assert ids == sorted(ids)
    assert (ids[0], ids[-1]) == (1, 90)
    assert coco.by_id()[63].name == "couch"
    assert coco.by_id()[63].synset == "sofa.n.01"
    assert coco.by_id()[63].synonyms == ("sofa", "lounge")
    assert all(c.synset for c in coco.categories)
    keys = [match_key(n) for c in coco.categories for n in (c.name, *c.synonyms)]
    assert len(keys) == len(set(keys))


@needs_shared_data
def test_objects365_has_the_corrected_names():
    with (SHARED / "vocab" / "Objects365_names_fix.csv").open(newline="") as file:
        corrected = {int(i): name.replace("/ ", "/") for i, _, name in csv.reader(file)}
    assert {c.id: c.name for c in load_vocabulary("objects365").categories} == corrected


@needs_shared_data
def test_cub_keeps_every_row():
    lines = (SHARED / "cub" / "classes.txt").read_text().split("\n")
    raw = {int(line.split()[0]): line.split(".", 1)[1] for line in lines if line}
    ours = load_vocabulary("cub200").by_id()
    assert ours.keys() == raw.keys()
    for i, name in raw.items():
        letters = [c for c in name.lower() if c.isalpha()]
        readable = [c for c in ours[i].name.lower() if c.isalpha()]
        # A possessive s was lost in CUB's file names, and the Arctic was misspelt.
        assert set(letters) <= set(readable), name
        assert 0 <= len(readable) - len(letters) <= 2, name
    assert ours[1].name == "Black-footed Albatross"
    assert all(c.synset or c.parent for c in ours.values())


def test_voc_is_found_among_coco():
    flags = resolve_base(load_vocabulary("voc").categories, load_vocabulary("coco").categories)
    assert all(flags)
