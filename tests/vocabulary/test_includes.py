"""Vocabularies of several files, and parents."""

from __future__ import annotations

from written_vocabulary import refusal, write

from vildcli.vocabulary.category import Category
from vildcli.vocabulary.files import load_vocabulary


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
