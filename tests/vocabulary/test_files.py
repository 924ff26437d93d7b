from __future__ import annotations

import contextlib
import json
import time

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from written_vocabulary import write

from vildcli.errors import VocabularyError
from vildcli.vocabulary.category import Category, Vocabulary
from vildcli.vocabulary.files import (
    load_attributes,
    load_vocabulary,
    parse_classes,
    save_vocabulary,
)

ORCHARD = """\
format: vildcli-vocabulary/1
name: orchard
categories:
  - {id: 1, name: apple, synset: apple.n.01, synonyms: [eating apple], definition: a fruit,
     frequency: f, parent: fruit, threshold: 0.35}
  - {id: 2, name: pear, base: true}
attributes:
  colour: [red, green]
negatives: [leaf, basket]
provenance:
  - {step: written by hand}
"""


def test_every_key_is_read(tmp_path):
    found = load_vocabulary(write(tmp_path, ORCHARD))
    assert found == Vocabulary(
        "orchard",
        (
            Category(1, "apple", "apple.n.01", ("eating apple",), "a fruit", "f", "fruit", 0.35),
            Category(2, "pear", base=True),
        ),
        {"colour": ("red", "green")},
        ("leaf", "basket"),
        ({"step": "written by hand"},),
    )


def test_only_names_are_needed(tmp_path):
    found = load_vocabulary(write(tmp_path, "categories:\n  - name: apple\n  - pear\n"))
    assert found == Vocabulary("orchard", (Category(1, "apple"), Category(2, "pear")))


def test_missing_ids_take_the_smallest_free_ones(tmp_path):
    path = write(tmp_path, "- a\n- {id: 1, name: b}\n- c\n- {id: 4, name: d}\n- e\n")
    assert [(c.id, c.name) for c in load_vocabulary(path).categories] == [
        (2, "a"),
        (1, "b"),
        (3, "c"),
        (4, "d"),
        (5, "e"),
    ]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("v.json", '{"categories": [{"name": "apple"}, {"name": "pear", "synonyms": ["nashi"]}]}'),
        ("v.csv", "name,synonyms\napple,\npear,nashi\n"),
        ("v.yml", "[apple, {name: pear, synonyms: [nashi]}]"),
    ],
)
def test_other_kinds_of_file_say_the_same(tmp_path, name, text):
    found = load_vocabulary(write(tmp_path, text, name))
    assert found == Vocabulary(
        "v", (Category(1, "apple"), Category(2, "pear", synonyms=("nashi",)))
    )


@pytest.mark.parametrize("name", ["fruit.txt", "fruit"])
def test_plain_text_holds_one_name_a_line(tmp_path, name):
    path = write(tmp_path, "\ufeff# fruit\napple\n\n  prickly pear \n", name)
    assert load_vocabulary(path) == Vocabulary(
        "fruit", (Category(1, "apple"), Category(2, "prickly pear"))
    )


def test_csv_columns_have_types(tmp_path):
    text = 'id,name,synonyms,threshold,base\n7,"hammer, claw",a | b,0.5,false\n'
    found = load_vocabulary(write(tmp_path, text, "tools.csv"))
    assert found.categories == (
        Category(7, "hammer, claw", synonyms=("a", "b"), threshold=0.5, base=False),
    )


def test_parse_classes():
    assert parse_classes(" apple, prickly pear,") == Vocabulary(
        "classes", (Category(1, "apple"), Category(2, "prickly pear"))
    )
    with pytest.raises(VocabularyError, match="has no categories"):
        parse_classes(" , ")
    with pytest.raises(VocabularyError, match="has the name apple more than once"):
        parse_classes("apple, apple")


NAMES = st.text(st.characters(codec="utf-8"), min_size=1).filter(str.strip)
# What people write besides: words that mean something to YAML, numbers, other scripts, emoji.
ODD_NAMES = NAMES | st.sampled_from(
    [
        "no",
        "Null",
        "a ",
        "747",
        "1e5",
        "2024-01-01",
        "- a",
        "a: b",
        "# a",
        "|",
        "{x}",
        "ברווז",
        "鸭",
        "🦆",
    ]
)


@st.composite
def vocabularies(draw: st.DrawFn) -> Vocabulary:
    names = draw(st.lists(ODD_NAMES, min_size=2, max_size=7, unique=True))
    synonyms = tuple(draw(st.lists(ODD_NAMES, max_size=3)))
    threshold = draw(st.floats(0, 1) | st.none())
    entries = [
        Category(i, name, None, synonyms, names[0], "r", names[-1], threshold, i % 2 == 0)
        for i, name in enumerate(names, start=draw(st.integers(1, 2**62)))
    ]
    parents = draw(st.integers(0, len(entries) - 1))
    sets = st.lists(ODD_NAMES, min_size=1, unique=True).map(tuple)
    return Vocabulary(
        names[0],
        tuple(entries[parents:]),
        draw(st.dictionaries(ODD_NAMES, sets, max_size=2)),
        tuple(dict.fromkeys(synonyms)),
        tuple({"step": name} for name in names[:parents]),
        tuple(entries[:parents]),
    )


@settings(max_examples=60, deadline=None)
@given(vocabularies(), st.sampled_from([".yaml", ".json"]))
def test_what_is_written_is_read_back(tmp_path_factory, vocabulary, suffix):
    folder = tmp_path_factory.mktemp("saved")
    first, second = folder / f"a{suffix}", folder / f"b{suffix}"
    save_vocabulary(vocabulary, first)
    assert load_vocabulary(first) == vocabulary
    save_vocabulary(load_vocabulary(first), second)
    assert first.read_bytes() == second.read_bytes()
    assert sorted(path.name for path in folder.iterdir()) == [first.name, second.name]


@settings(max_examples=60, deadline=None)
@given(vocabularies())
def test_other_readers_of_yaml_and_json_find_the_same(tmp_path_factory, vocabulary):
    folder = tmp_path_factory.mktemp("saved")
    save_vocabulary(vocabulary, folder / "v.yaml")
    save_vocabulary(vocabulary, folder / "v.json")
    expected = {"format": "vildcli-vocabulary/1", **vocabulary.as_dict()}
    assert json.loads((folder / "v.json").read_bytes()) == expected
    assert yaml.safe_load((folder / "v.yaml").read_text(encoding="utf-8")) == expected


@settings(max_examples=60, deadline=None)
@given(vocabularies())
def test_csv_is_read_back_or_refused(tmp_path_factory, vocabulary):
    plain = Vocabulary("v", vocabulary.categories)
    path = tmp_path_factory.mktemp("saved") / "v.csv"
    with contextlib.suppress(VocabularyError):
        save_vocabulary(plain, path)
    if path.exists():
        assert load_vocabulary(path) == plain
    else:
        texts = [t for c in plain.categories for t in (c.name, c.definition, c.parent, *c.synonyms)]
        assert any(t != t.strip() or t.splitlines() != [t] or "|" in t for t in texts)


def test_csv_has_the_columns_that_are_used(tmp_path):
    categories = (Category(7, "hammer, claw", synonyms=("a", "b"), base=False), Category(9, "nail"))
    save_vocabulary(Vocabulary("tools", categories), tmp_path / "tools.csv")
    assert (tmp_path / "tools.csv").read_text() == (
        'id,name,synonyms,base\n7,"hammer, claw",a|b,false\n9,nail,,\n'
    )


@pytest.mark.parametrize(
    "more",
    [
        {"attributes": {"colour": ("red",)}},
        {"negatives": ("leaf",)},
        {"parents": (Category(2, "fruit"),)},
    ],
)
def test_csv_refuses_what_it_has_no_place_for(tmp_path, more):
    path = tmp_path / "v.csv"
    with pytest.raises(VocabularyError) as error:
        save_vocabulary(Vocabulary("v", (Category(1, "apple"),), **more), path)
    assert str(error.value) == f"{path}: CSV holds no {next(iter(more))}."
    assert error.value.hint == "Choose another kind: --out v.json"


def test_another_suffix_is_refused(tmp_path):
    with pytest.raises(VocabularyError) as error:
        save_vocabulary(Vocabulary("v", (Category(1, "apple"),)), tmp_path / "v.txt")
    assert str(error.value) == (
        f"{tmp_path / 'v.txt'} has the suffix '.txt', which vocabularies are not written as."
    )
    assert error.value.hint == "Use .yaml, .json or .csv."


@pytest.mark.slow
@pytest.mark.parametrize(
    ("suffix", "count"), [(".yaml", 20_000), (".json", 100_000), (".csv", 100_000)]
)
def test_many_categories_are_quick(tmp_path, suffix, count):
    """Seconds, where comparing each name with every other takes many minutes."""
    many = Vocabulary("many", tuple(Category(i, f"thing {i}") for i in range(1, count + 1)))
    started = time.process_time()
    save_vocabulary(many, tmp_path / f"many{suffix}")
    assert load_vocabulary(tmp_path / f"many{suffix}").categories == many.categories
    assert time.process_time() - started < 60


def test_a_saved_file_has_one_category_a_line(tmp_path):
    vocabulary = Vocabulary(
        "orchard",
        (
            Category(1, "no", synonyms=("pomme",)),
            Category(2, "päron, a long one " * 9, threshold=1e-05),
        ),
        {"colour": ("red", "on")},
        ("leaf",),
        ({"step": "expand"},),
    )
    save_vocabulary(vocabulary, tmp_path / "v.yaml")
    assert (tmp_path / "v.yaml").read_text(encoding="utf-8") == (
        "format: vildcli-vocabulary/1\n"
        "name: orchard\n"
        "categories:\n"
        "  - {id: 1, name: 'no', synonyms: [pomme]}\n"
        f"  - {{id: 2, name: '{'päron, a long one ' * 9}', threshold: 1.0e-05}}\n"
        "attributes:\n"
        "  colour: [red, 'on']\n"
        "negatives:\n"
        "  - leaf\n"
        "provenance:\n"
        "  - {step: expand}\n"
    )
    assert load_vocabulary(tmp_path / "v.yaml") == vocabulary


def test_load_attributes(tmp_path):
    eleven = load_attributes("colours")
    assert list(eleven) == ["colour"]
    assert len(eleven["colour"]) == 11
    assert load_attributes("colors") == eleven
    assert load_attributes(write(tmp_path, ORCHARD)) == {"colour": ("red", "green")}
    assert load_attributes(write(tmp_path, "big\nsmall\n", "size.txt")) == {
        "size": ("big", "small")
    }
    with pytest.raises(VocabularyError) as error:
        load_attributes(write(tmp_path, "categories: [a]", "b.yaml"))
    assert str(error.value) == f"{tmp_path / 'b.yaml'} holds no attributes."
