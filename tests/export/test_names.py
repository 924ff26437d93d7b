from __future__ import annotations

import unicodedata

import pytest
from export_run import select
from run_builder import DrawnImage, build_run

from vildcli.export.names import FileNames


def stems(tmp_path, *names, **changes):
    images = [DrawnImage(name, (4, 4)) for name in names]
    run = build_run(tmp_path / "run", tmp_path / "photos", images, **changes)
    selection = select(run)
    found = FileNames(selection)
    return [found.stem(image) for image in selection.images()]


def test_file_names__the_first_one_keeps_its_name(tmp_path):
    assert stems(tmp_path, "a.jpg", "a.png", "b/a.jpg", "a.webp", "c.png") == [
        "a",
        "a-2",
        "b/a",
        "a-3",
        "c",
    ]


def test_file_names__nobodys_own_name_is_given_away(tmp_path):
    assert stems(tmp_path, "a.jpg", "a.png", "a-2.png", "a-2.jpg") == [
        "a",
        "a-3",
        "a-2",
        "a-2-2",
    ]


def test_file_names__case_and_unicode_form_do_not_tell_names_apart(tmp_path):
    composed, split = "é.png", unicodedata.normalize("NFD", "é.jpg")
    found = stems(tmp_path, "A.png", "a.jpg", composed, split)
    assert found == ["A", "a-2", "é", unicodedata.normalize("NFD", "é") + "-2"]


def test_file_names__only_the_last_suffix_goes(tmp_path):
    assert stems(tmp_path, "a.b.jpg", "a.c.jpg", "plain.png") == ["a.b", "a.c", "plain"]


def test_file_names__several_sources_have_folders(tmp_path):
    sources = {"photos": str(tmp_path / "photos"), "more": str(tmp_path)}
    assert stems(tmp_path, "a.jpg", "b.png", arguments={"sources": sources}) == [
        "photos/a",
        "photos/b",
    ]


def test_file_names__images_added_later_rename_nothing(tmp_path):
    names = ("a.jpg", "a.png", "b.png")
    before = stems(tmp_path / "1", *names)
    assert stems(tmp_path / "2", *names, "b.jpg", "a.webp")[:3] == before


@pytest.mark.parametrize("name", ["x.tar#../../etc/a.png", "../a.png"])
def test_file_names__never_leave_the_folder(tmp_path, name):
    (tmp_path / "photos" / "x.tar#..").mkdir(parents=True)
    (found,) = stems(tmp_path, name)
    assert ".." not in found.split("/")
