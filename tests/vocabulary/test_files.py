from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from vildcli.errors import VocabularyError
from vildcli.vocabulary.category import Category, Vocabulary
from vildcli.vocabulary.files import (
    load_attributes,
    load_vocabulary,
    parse_classes,
    save_vocabulary,
)


def write(folder: Path, text: str, name: str = "orchard.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def refusal(path: Path) -> VocabularyError:
    with pytest.raises(VocabularyError) as error:
        load_vocabulary(path)
    assert "\n" not in str(error.value)
    return error.value


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
@pytest.mark.parametrize("suffix", [".yaml", ".json", ".csv"])
def test_a_hundred_thousand_categories_are_quick(tmp_path, suffix):
    many = Vocabulary("many", tuple(Category(i, f"thing {i}") for i in range(1, 100_001)))
    started = time.process_time()
    save_vocabulary(many, tmp_path / f"many{suffix}")
    assert load_vocabulary(tmp_path / f"many{suffix}").categories == many.categories
    assert time.process_time() - started < 30


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


def test_included_files_follow_and_ids_do_not_collide(tmp_path):
    (tmp_path / "more").mkdir()
    write(tmp_path, "negatives: [leaf]\ncategories: [{id: 1, name: plum}, fig]", "more/b.yaml")
    write(tmp_path, "lime\n", "more/c.txt")
    path = write(
        tmp_path,
        "include: [more/b.yaml, ./more/c.txt, colours]\nnegatives: [leaf, bark]\n"
        "categories: [apple, {id: 3, name: pear}]\nattributes: {size: [big]}",
    )
    found = load_vocabulary(path)
    assert [(c.id, c.name) for c in found.categories] == [
        (2, "apple"),
        (3, "pear"),
        (1, "plum"),
        (4, "fig"),
        (5, "lime"),
    ]
    assert found.negatives == ("leaf", "bark")
    assert list(found.attributes) == ["size", "colour"]


def test_parents_are_numbered_with_the_categories(tmp_path):
    path = write(
        tmp_path, "categories: [{name: duck, parent: bird}]\nparents: [bird, {id: 1, name: animal}]"
    )
    found = load_vocabulary(path)
    assert found.categories == (Category(2, "duck", parent="bird"),)
    assert found.parents == (Category(3, "bird"), Category(1, "animal"))


def test_included_files_may_share_a_parent(tmp_path):
    write(tmp_path, "categories: [{name: duck, parent: animal}]\nparents: [animal]", "b.yaml")
    path = write(
        tmp_path,
        "include: [b.yaml]\ncategories: [{name: cow, parent: animal}]\nparents: [animal]",
    )
    found = load_vocabulary(path)
    assert [c.name for c in found.categories] == ["cow", "duck"]
    assert found.parents == (Category(3, "animal"),)


def test_a_parent_that_another_file_looks_for_is_a_category(tmp_path):
    write(tmp_path, "categories: [{name: duck, parent: bird}]\nparents: [bird]", "b.yaml")
    found = load_vocabulary(write(tmp_path, "include: [b.yaml]\ncategories: [bird]"))
    assert ([c.name for c in found.categories], found.parents) == (["bird", "duck"], ())


def test_a_circle_of_includes_is_refused(tmp_path):
    write(tmp_path, "include: [b.yaml]\ncategories: [x]", "a.yaml")
    write(tmp_path, "include: [c.yaml]\ncategories: [y]", "b.yaml")
    path = write(tmp_path, "include: [a.yaml]\ncategories: [z]", "c.yaml")
    assert str(refusal(path)) == (
        "Vocabularies include each other in a circle: c.yaml → a.yaml → b.yaml → c.yaml."
    )


def test_a_missing_included_file_is_named(tmp_path):
    error = refusal(write(tmp_path, "include: [gone.yaml]\ncategories: [x]"))
    assert str(error) == f"{tmp_path / 'gone.yaml'} cannot be read: No such file or directory."


def test_a_name_in_two_included_files_is_refused(tmp_path):
    write(tmp_path, "apple\n", "b.txt")
    error = refusal(write(tmp_path, "include: [b.txt]\ncategories: [apple]"))
    assert str(error) == "Vocabulary 'orchard' has the name apple more than once."


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        (
            "categories:\n  - {name: apple, sinonyms: [x]}\n",
            "{path}, category 1 ('apple'): unknown key 'sinonyms'.",
            "Did you mean 'synonyms'? Known keys: id, name, synset, synonyms, definition, "
            "frequency, parent, threshold, base.",
        ),
        (
            "catgories: [apple]\n",
            "{path}: unknown key 'catgories'.",
            "Did you mean 'categories'? Known keys: format, name, categories, parents, attributes, "
            "negatives, include, provenance.",
        ),
        (
            "categories:\n\t- apple\n",
            "{path}, line 2: there is a tab.",
            "YAML is indented with spaces; replace it.",
        ),
        (
            "categories:\n  - name: apple\n\tid: 3\n",
            "{path}, line 3: there is a tab.",
            "YAML is indented with spaces; replace it.",
        ),
        (
            "name: x\nname: y\ncategories: [a]\n",
            "{path}, line 2: the key 'name' is there more than once.",
            None,
        ),
        ("? [a, b]\n: c\n", "{path}, line 1: a key must be text.", None),
        (
            "categories: [{name: 2024-01-01}]",
            "{path}, category 1: name is datetime.date(2024, 1, 1), not text.",
            'YAML reads this as date; quote it: "...".',
        ),
        (
            "categories: [{id: x, name: apple}]",
            "{path}, category 1 ('apple'): id is 'x', not a whole number.",
            None,
        ),
        (
            "categories: [{id: true, name: apple}]",
            "{path}, category 1 ('apple'): id is True, not a whole number.",
            None,
        ),
        (
            "categories: [{name: apple, threshold: high}]",
            "{path}, category 1 ('apple'): threshold is 'high', not a number from 0 to 1.",
            None,
        ),
        (
            "categories: [{name: apple, base: maybe}]",
            "{path}, category 1 ('apple'): base is 'maybe', not true or false.",
            None,
        ),
        (
            "categories: [{name: sofa, synonyms: couch}]",
            "{path}, category 1 ('sofa'): synonyms is 'couch', not a list of texts.",
            None,
        ),
        (
            "categories: [apple, {name: no}]",
            "{path}, category 2: name is False, not text.",
            'YAML reads no, yes, on, off, true and false as truth values; quote the word: "no".',
        ),
        (
            "categories: [yes]",
            "{path}, category 1 is True.",
            'YAML reads no, yes, on, off, true and false as truth values; quote the word: "no".',
        ),
        (
            "categories: [{name: 747}]",
            "{path}, category 1: name is 747, not text.",
            'YAML reads this as int; quote it: "...".',
        ),
        (
            "categories: [{name: null}]",
            "{path}, category 1 has no name.",
            'YAML reads this as nothing; quote it: "...".',
        ),
        ("categories: [{id: 1}]", "{path}, category 1 has no name.", None),
        ("categories: apple", "{path}: categories is 'apple', not a list.", None),
        ("attributes: [red]", "{path}: attributes is ['red'], not sets of names.", None),
        (
            "attributes: {colour: red}",
            "{path}: attributes: colour is 'red', not a list of texts.",
            None,
        ),
        (
            "negatives: [off]\ncategories: [a]",
            "{path}: negatives is False, not text.",
            'YAML reads no, yes, on, off, true and false as truth values; quote the word: "no".',
        ),
        (
            "format: vildcli-vocabulary/2\ncategories: [a]",
            "{path} has format 2; this vildcli reads up to 1.",
            "Update vildcli.",
        ),
        (
            "format: yolo\ncategories: [a]",
            "{path} has the format 'yolo'.",
            "A vocabulary says: format: vildcli-vocabulary/1",
        ),
        (
            "attributes: {colour: [red]}",
            "{path} holds attributes and no categories.",
            "Include it from a vocabulary that has categories.",
        ),
        (
            "attributes: {colour: []}",
            "{path}: the attribute set 'colour' is empty.",
            "Fill it, or take it out.",
        ),
        (
            "attributes: {colour: [red, ' ']}",
            "{path}: attributes: colour holds an empty text.",
            None,
        ),
        (
            "categories: [{name: sofa, synonyms: ['']}]",
            "{path}, category 1 ('sofa'): synonyms holds an empty text.",
            None,
        ),
        (
            "categories: ['  ']",
            "A category of vocabulary 'orchard' has an empty name.",
            None,
        ),
        (
            "categories: [{id: 9223372036854775808, name: a}]",
            "Category 'a' of vocabulary 'orchard' has the id 9223372036854775808.",
            "Ids go up to 9223372036854775807.",
        ),
        (
            "categories: [a]\nparents: [{name: b, id: x}]",
            "{path}, parent 1 ('b'): id is 'x', not a whole number.",
            None,
        ),
        (
            "categories: [a]\nparents: [a]",
            "Vocabulary 'orchard' has the name a more than once.",
            "Every name must be unique; remove or rename the doubles.",
        ),
        ("categories: [a]\nparents: b", "{path}: parents is 'b', not a list.", None),
        ("name: empty", "Vocabulary 'empty' has no categories.", None),
        ("just words", "{path} holds no vocabulary.", "Only categories with a name are needed."),
        ("", "{path} holds no vocabulary.", "Only categories with a name are needed."),
        (
            "categories: [a, a]",
            "Vocabulary 'orchard' has the name a more than once.",
            "Every name must be unique; remove or rename the doubles.",
        ),
        (
            "categories: [{id: 3, name: a}, {id: 3, name: b}]",
            "Vocabulary 'orchard' has the id 3 more than once.",
            "Every id must be unique; remove or rename the doubles.",
        ),
    ],
)
def test_what_is_wrong_is_said_in_a_line(tmp_path, text, message, hint):
    path = write(tmp_path, text)
    error = refusal(path)
    assert str(error) == message.format(path=path)
    assert error.hint == hint


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("v.json", b'{"categories": [\n}', "{path}, line 2: Expecting value."),
        (
            "v.json",
            b'{"name": "a", "name": "b"}',
            "{path}: a key is there more than once among name.",
        ),
        (
            "v.json",
            b'["pear", "a \\ud83d"]',
            "{path}, category 2: name holds half a character: 'a \\ud83d'.",
        ),
        (
            "v.json",
            b'[{"name": "a", "synonyms": ["\\ude00"]}]',
            "{path}, category 1 ('a'): synonyms holds half a character: '\\ude00'.",
        ),
        ("v.csv", b"id,label\n1,apple\n", "{path} has no column 'name'."),
        ("v.csv", b"id,name\n1,hammer, claw\n", "{path}, line 2: 3 cells under 2 columns."),
        (
            "v.csv",
            b"id,name\nx,apple\n",
            "{path}, category 1 ('apple'): id is 'x', not a whole number.",
        ),
        ("v.xml", b"<a/>", "{path} has the suffix .xml, which is no kind of vocabulary."),
        ("v.yaml", b"categories: [\xff]", "{path} is not UTF-8 text."),
        ("v.yaml", b"categories: [a\n", "{path}, line 2: did not find expected ',' or ']'."),
    ],
)
def test_broken_files_are_refused(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    assert str(refusal(path)) == message.format(path=path)


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
