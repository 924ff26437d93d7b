from __future__ import annotations

import pytest
from wrong_exports import edit, said

from vildcli.export.checks import check_export


@pytest.mark.parametrize(
    ("file", "old", "new", "problem"),
    [
        ("a", "<filename>a.png<", "<filename><", "Annotations/a.xml has no filename"),
        ("a", ">a.png<", ">b.png<", "Annotations/a.xml has no image JPEGImages/b.png"),
        (
            "a-2",
            "<filename>a-2.jpg<",
            "<filename>a.png<",
            "Annotations/a.xml has the filename 'a.png', as Annotations/a-2.xml has",
        ),
        (
            "a",
            "<width>96<",
            "<width>0<",
            "Annotations/a.xml has the width '0', not a number of pixels",
        ),
        ("a", "<name>apple<", "<name> <", "Annotations/a.xml, object 1 has no name"),
        (
            "a",
            "<difficult>0<",
            "<difficult>no<",
            "Annotations/a.xml, object 1 has the difficult 'no', not 0 or 1",
        ),
        (
            "a",
            "<xmin>5<",
            "<xmin>five<",
            "Annotations/a.xml, object 1 has the xmin 'five', not a number",
        ),
        (
            "a",
            "<xmin>5<",
            "<xmin>95<",
            "Annotations/a.xml, object 1 has a box that ends before it begins (95 7 41 50)",
        ),
        (
            "a",
            "<xmin>5<",
            "<xmin>0<",
            "Annotations/a.xml, object 1 has a box from 0 7 on; VOC counts pixels from 1",
        ),
        (
            "a",
            "<xmax>41<",
            "<xmax>97<",
            "Annotations/a.xml, object 1 has a box to 97 50 in an image of 96 x 64",
        ),
        ("a", "<annotation>", "<thing>", "Annotations/a.xml, line "),
    ],
)
def test_check_voc__one_thing_wrong(copied, file, old, new, problem):
    path = copied("voc-box")
    edit(path / "Annotations" / f"{file}.xml", old, new)
    assert any(found.startswith(problem) for found in said(path))


def test_check_voc__lists_and_single_files(copied, tmp_path):
    path = copied("voc-box")
    names = path / "ImageSets" / "Main" / "trainval.txt"
    names.write_text(names.read_text() + "gone\n")
    assert said(path) == ["ImageSets/Main/trainval.txt:6 names 'gone', which has no annotation"]
    (path / "ImageSets" / "Main" / "apple_trainval.txt").write_text("a  1\nempty -1\n")
    assert len(said(path)) == 1
    one = path / "Annotations" / "a.xml"
    assert check_export(one) == ("voc", [])
    one.write_text("<html/>")
    assert said(one, "voc") == ["a.xml holds <html>, not <annotation>"]
