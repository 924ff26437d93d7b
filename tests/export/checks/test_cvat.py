from __future__ import annotations

import pytest
from wrong_exports import edit, said


@pytest.mark.parametrize(
    ("geometry", "old", "new", "problem"),
    [
        ("box", 'id="2"', 'id="1"', "image 1 (a.jpg) has the id '1', as image 1 (a.png) has"),
        ("box", 'name="a.png"', 'name=""', "image 1 () has no name"),
        (
            "box",
            'width="96"',
            'width="wide"',
            "image 1 (a.png) has the width 'wide', not a number of pixels",
        ),
        (
            "box",
            'label="apple"',
            'label="pear"',
            "image 1 (a.png), box 1 has the label 'pear', which the meta does not declare",
        ),
        (
            "box",
            '<attribute name="colour">',
            '<attribute name="color">',
            "image 1 (a.png), box 1 has the attribute 'color', which its label does not declare",
        ),
        ("box", 'xtl="4.25"', "", "image 1 (a.png), box 1 has the xtl None, not a number"),
        (
            "box",
            'xtl="4.25"',
            'xtl="40.75"',
            "image 1 (a.png), box 1 has a box without area (40.75 6.5 40.75 50)",
        ),
        (
            "box",
            'xbr="40.75"',
            'xbr="98"',
            "image 1 (a.png), box 1 has a box (4.25 6.5 98 50) that leaves its image of 96 x 64",
        ),
        (
            "polygon",
            'points="',
            'points="1,2,3;',
            "image 1 (a.png), polygon 1 has points that are not x,y;x,y",
        ),
        (
            "polygon",
            'points="',
            'points="-9,2;',
            "image 1 (a.png), polygon 1 has a polygon (-9 ",
        ),
        ("rle", 'rle="', 'rle="7, ', "image 1 (a.png), mask 1 has a mask whose runs add up to "),
        ("rle", 'rle="', 'rle="x, ', "image 1 (a.png), mask 1 has a mask that is no list of run"),
        ("rle", 'left="4"', 'left="90"', "image 1 (a.png), mask 1 has a mask (90 "),
        ("box", "</annotations>", "", "cvat.xml, line "),
        ("box", "<meta>", "<mета>", "cvat.xml, line "),
    ],
)
def test_check_cvat__one_thing_wrong(copied, geometry, old, new, problem):
    path = copied(f"cvat-{geometry}")
    edit(path, old, new)
    assert any(found.startswith(problem) for found in said(path))


def test_check_cvat__without_meta(copied):
    path = copied("cvat-box")
    text = path.read_text(encoding="utf-8")
    start, end = text.index("<meta>"), text.index("</meta>") + len("</meta>")
    path.write_text(text[:start] + text[end:], encoding="utf-8")
    assert said(path)[-1] == "meta is missing: no label is declared"
