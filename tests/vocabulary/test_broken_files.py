"""What is wrong in a vocabulary is said in a line."""

from __future__ import annotations

import pytest
from written_vocabulary import refusal, write


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
