"""Each check is shown an export that is right, with one thing in it made wrong."""

from __future__ import annotations

import json
import random
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from export_run import build_odd_run, select

from vildcli.errors import DataError
from vildcli.export import FORMATS
from vildcli.export.checks import check_export


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """One export of every format and geometry, by `format-geometry`."""
    folder = tmp_path_factory.mktemp("exports")
    run = build_odd_run(folder)
    for name, form in FORMATS.items():
        for geometry in form.geometries:
            options = {"images": "copy"} if "images" in form.options else {}
            out = folder / f"{name}-{geometry}" / form.name
            form.export(select(run), out, geometry=geometry, **options)
    return folder


@pytest.fixture
def copied(exports, tmp_path):
    def copy(name):
        shutil.copytree(exports / name, tmp_path / name)
        return tmp_path / name / FORMATS[name.partition("-")[0]].name

    return copy


def said(path, form=None):
    return [f"{p.where} {p.what}" for p in check_export(path, form)[1]]


def edit(path, old, new):
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


@pytest.mark.parametrize(
    ("file", "old", "new", "problem"),
    [
        ("data.yaml", "train: images\n", "", "data.yaml has no train, which Ultralytics needs"),
        (
            "data.yaml",
            "  0: apple",
            "  9: apple",
            "data.yaml has names that do not count from 0 on",
        ),
        ("data.yaml", "names:", "nc: 7\nnames:", "data.yaml has nc 7 for 4 names"),
        ("data.yaml", "names:", "other:", "data.yaml has no names"),
        ("data.yaml", "- 1203\n", "", "data.yaml has vildcli_ids that are not 4"),
        ("data.yaml", "val: images", "val: [", "data.yaml is no YAML: "),
        ("labels/a.txt", "0 ", "4 ", "labels/a.txt:1 has the class '4' of 4 from 0 on"),
        ("labels/a.txt", "0 ", "-1 ", "labels/a.txt:1 has the class '-1' of 4 from 0 on"),
        ("labels/a.txt", "0 0.234375", "0 x", "labels/a.txt:1 has 'x', not a number"),
        ("labels/a.txt", "0 0.234375", "0 nan", "labels/a.txt:1 has 'nan', not a number"),
        ("labels/a.txt", "0 0.234375", "0 1.5", "labels/a.txt:1 has 1.5, not a share in 0 to 1"),
        ("labels/a.txt", "0 0.234375", "0 1", "labels/a.txt:1 has a box that leaves its image"),
        (
            "labels/a.txt",
            "0 0.234375",
            "0",
            "labels/a.txt:1 has 4 columns: neither a box nor a polygon",
        ),
        (
            "labels/deep/a.txt",
            "1 ",
            "1 0.1 0.1 0 0.2\n1 ",
            "labels/deep/a.txt:1 has a box without area",
        ),
        (
            "labels/deep/a.txt",
            "1 ",
            "1 0 0 .1 0 .1 .1\n1 ",
            "labels/deep/a.txt has boxes and polygons, which Ultralytics takes for polygons all",
        ),
        (
            "labels/deep/a.txt",
            "1 ",
            "1 0 0 .1 .1 .2 .2\n1 ",
            "labels/deep/a.txt:1 has a polygon without area",
        ),
    ],
)
def test_check_yolo__one_thing_wrong(copied, file, old, new, problem):
    path = copied("yolo-box")
    edit(path / file, old, new)
    assert any(found.startswith(problem) for found in said(path))


def test_check_yolo__files(copied, tmp_path):
    path = copied("yolo-box")
    (path / "images" / "deep" / "a.png").unlink()
    (path / "labels" / "stray.txt").write_bytes(b"\xff")
    assert said(path) == [
        "labels/deep/a.txt has no image",
        "labels/stray.txt has no image",
        "labels/stray.txt is not UTF-8 at byte 0",
    ] or said(path) == [
        "labels/stray.txt has no image",
        "labels/stray.txt is not UTF-8 at byte 0",
        "labels/deep/a.txt has no image",
    ]
    shutil.rmtree(path / "images")
    assert said(path / "data.yaml") == ["labels/stray.txt is not UTF-8 at byte 0"]
    shutil.rmtree(path / "labels")
    assert said(path) == ["labels is no folder"]


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


@pytest.mark.parametrize(
    ("geometry", "keys", "value", "problem"),
    [
        ("box", (0, "data"), {}, "task 0 has no data"),
        ("box", (0, "data"), {"image": 3}, "task 0 has no image in its data"),
        ("box", (0, "predictions"), {"a": 1}, "task 0, predictions is no list"),
        ("box", (0, "predictions", 0), {}, "task 0, predictions[0] has no list of results"),
        (
            "box",
            (0, "predictions", 0, "score"),
            7,
            "task 0, predictions[0] has the score 7, not 0 to 1",
        ),
        ("box", "from_name", "", "has no from_name"),
        ("box", "value", None, "has no value"),
        ("box", "score", -1, "has the score -1, not 0 to 1"),
        ("box", "original_width", 0, "has no original_width and original_height"),
        ("box", ("value", "rectanglelabels"), [], "has no rectanglelabels in its value"),
        ("box", ("value", "x"), None, "has no x, y, width and height in its value"),
        (
            "box",
            ("value", "x"),
            90,
            "has a box (86.4 6.5 122.9 50) that leaves its image of 96 x 64",
        ),
        ("box", ("value", "width"), 0, "has a box without area (4.25 6.5 4.25 50)"),
        ("polygon", ("value", "points"), [[1, 2]], "has a polygon without area"),
        ("polygon", ("value", "points"), [1, 2], "has no points in its value"),
        (
            "polygon",
            ("value", "points"),
            [[0, 0], [200, 0], [0, 9]],
            "has a polygon (0 0 192 5.76) that leaves its image of 96 x 64",
        ),
        ("rle", ("value", "rle"), [1, 300], "has no rle of bytes in its value"),
        ("rle", ("value", "rle"), [0, 0, 0, 4], "has a brush of None bytes, not 4 x 96 x 64"),
        ("rle", "original_width", 97, "has a brush of 24576 bytes, not 4 x 97 x 64"),
    ],
)
def test_check_labelstudio__one_thing_wrong(copied, geometry, keys, value, problem):
    path = copied(f"labelstudio-{geometry}")
    content = json.loads(path.read_text(encoding="utf-8"))
    node, inner = content, problem
    if isinstance(keys, str) or isinstance(keys[0], str):
        node = content[0]["predictions"][0]["result"][0]
        inner = f"task 0, predictions[0].result[0] {problem}"
    *above, last = (keys,) if isinstance(keys, str) else keys
    for key in above:
        node = node[key]
    node[last] = value
    path.write_text(json.dumps(content), encoding="utf-8")
    assert inner in said(path)


def test_check_labelstudio__ids_and_empty_brushes(copied):
    path = copied("labelstudio-rle")
    content = json.loads(path.read_text())
    first, *_ = content[0]["predictions"][0]["result"]
    last = content[0]["predictions"][0]["result"][9]
    last["id"] = first["id"]
    bits = f"{96 * 64 * 4:032b}" + "00111" + "0010001101111111"
    for length in (2**14, 2**13):  # nothing but 0
        bits += "1" + "11" + f"{length - 1:016b}" + "00000000"
    bits = bits.ljust(-(-len(bits) // 8) * 8, "0")
    first["value"]["rle"] = [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]
    path.write_text(json.dumps(content))
    assert said(path) == [
        "task 0, predictions[0].result[0] has an empty brush",
        "task 0, predictions[0].result[9] has the id '1-0', "
        "as task 0, predictions[0].result[0] has",
    ]


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("x1,y1", "left,y1", "labels.csv has no column x1"),
        ("file_name,", "f,", None),
        (",4.25,", ",x,", "labels.csv, row 1 has the x1 'x', not a number"),
        (",4.25,", ",,", "labels.csv, row 1 has the x1 None, not a number"),
        (",4.25,", ",40.75,", "labels.csv, row 1 has a box without area (40.75 6.5 40.75 50)"),
        (",0.9,", ",1.9,", "labels.csv, row 1 has the score 1.9, not 0 to 1"),
        (
            "1,a.png,96,64,0,7,apple",
            "1,a.png,96,64,0,3,apple",
            "labels.csv, row 4 calls the category_id 3 \"poire d'été\"; before it was 'apple'",
        ),
        (
            "a.png,96,64",
            "a.png,96,64,9,9,9,9,9",
            "labels.csv, row 1 has more values than there are columns",
        ),
    ],
)
def test_check_csv__one_thing_wrong(copied, old, new, problem):
    path = copied("csv-box")
    edit(path, old, new)
    found = said(path)
    assert (problem in found) if problem else (found == [])


def test_check_csv__empty_masks_and_no_csv(copied):
    path = copied("csv-rle")
    lines = path.read_text(encoding="utf-8").splitlines()
    place = lines[1].index('"{')
    path.write_text("\n".join([lines[0], lines[1][:place] + "[]"]), encoding="utf-8")
    assert said(path) == ["labels.csv, row 1 has an empty segmentation"]
    long = json.dumps([[1.25] * 60_000]).replace('"', '""')
    path.write_text(f'{lines[0]}\n{lines[1][:place]}"{long}"', encoding="utf-8")
    assert said(path) == []
    path.write_bytes(b"a,b\n\xff\xff")
    assert said(path)[0].startswith("labels.csv is no CSV in UTF-8: ")


def test_check_parquet__rows_and_damage(copied):
    path = copied("parquet-box")
    table = pq.read_table(path)
    place = table.schema.get_field_index("x2")
    wide = table.set_column(place, table.schema.field("x2"), pa.array([999.0] * 7, pa.float32()))
    pq.write_table(wide, path)
    assert len(said(path)) == 7
    assert said(path)[0] == (
        "labels.parquet, row 1 has a box (4.25 6.5 999 50) that leaves its image of 96 x 64"
    )
    path.write_bytes(path.read_bytes()[:200])
    assert said(path)[0].startswith("labels.parquet is no Parquet: ")


@pytest.mark.parametrize(
    ("keys", "value", "problem"),
    [
        (("filepath",), "", "samples[0] has no filepath"),
        (("filepath",), "data/b.png", "samples[0] has no image data/b.png"),
        (
            ("filepath",),
            "data/a-2.jpg",
            "samples[1] has the filepath 'data/a-2.jpg', as samples[0] has",
        ),
        (("label",), None, "samples[0].predictions[0] has no label"),
        (
            ("bounding_box",),
            [0, 0, 1],
            "samples[0].predictions[0] has the bounding_box [0, 0, 1], not x y width height",
        ),
        (
            ("bounding_box",),
            [0.5, 0, 0.7, 1],
            "samples[0].predictions[0] has the bounding_box [0.5, 0, 0.7, 1], "
            "which leaves its image",
        ),
        (("confidence",), 2, "samples[0].predictions[0] has the confidence 2, not 0 to 1"),
        (
            ("mask",),
            {"$binary": "x"},
            "samples[0].predictions[0] has a mask that is empty or cannot be read",
        ),
    ],
)
def test_check_fiftyone__one_thing_wrong(copied, keys, value, problem):
    path = copied("fiftyone-rle")
    content = json.loads((path / "samples.json").read_text(encoding="utf-8"))
    sample = content["samples"][0]
    node = sample if keys[0] == "filepath" else sample["predictions"]["detections"][0]
    node[keys[0]] = value
    (path / "samples.json").write_text(json.dumps(content), encoding="utf-8")
    assert said(path) == [problem]
    assert said(path / "samples.json") == [problem]


def test_check_fiftyone__metadata(copied):
    path = copied("fiftyone-box")
    (path / "metadata.json").write_text("{}")
    assert said(path) == ["metadata.json has no version or no sample_fields"]


def test_format_of__nothing_known(tmp_path):
    (tmp_path / "note.txt").write_text("dear diary")
    (tmp_path / "page.xml").write_text("<html/>")
    (tmp_path / "some.json").write_text('{"a": 1}')
    for path in (tmp_path / "note.txt", tmp_path / "some.json"):
        with pytest.raises(DataError) as error:
            check_export(path)
        assert str(error.value) == f"{path} looks like no format that is exported."
        assert error.value.hint == "Name its format with --to."
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError):
        check_export(tmp_path / "empty")


def test_format_of__by_content_not_by_name(exports, tmp_path):
    for name in ("coco-box", "lvis-box", "labelstudio-rle", "cvat-box", "csv-box", "parquet-rle"):
        form = name.partition("-")[0]
        shutil.copy(exports / name / FORMATS[form].name, tmp_path / "file.dat")
        assert check_export(tmp_path / "file.dat") == (form, [])


def places(node, path=()):
    """Every place in a JSON value, as keys from the top."""
    inner = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in inner:
        yield (*path, key)
        if isinstance(value, (dict, list)):
            yield from places(value, (*path, key))


STRANGE = (
    None,
    True,
    0,
    -1,
    1.5,
    1e400,
    10**400,
    "",
    "x",
    [],
    [None],
    [[]],
    {},
    {"a": []},
    [1, "a"],
)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("coco-rle", "coco.json"),
        ("coco-polygon", "coco.json"),
        ("lvis-box", "lvis.json"),
        ("labelstudio-box", "labelstudio.json"),
        ("labelstudio-rle", "labelstudio.json"),
        ("fiftyone-rle", "fiftyone/samples.json"),
    ],
)
def test_check__whatever_stands_there_is_no_crash(exports, tmp_path, name, file):
    form = name.partition("-")[0]
    shutil.copytree(exports / name, tmp_path / name)
    path = tmp_path / name / file
    content = json.loads(path.read_text(encoding="utf-8"))
    spots = list(places(content))
    generator = random.Random(0)
    for _ in range(250):
        *above, last = generator.choice(spots)
        node = content
        for key in above:
            node = node[key]
        before, node[last] = node[last], generator.choice(STRANGE)
        path.write_text(json.dumps(content), encoding="utf-8")
        found, _ = check_export(path, form)
        assert found == form
        node[last] = before


def test_check_yolo__whatever_yaml_stands_there(copied):
    path = copied("yolo-box")
    for value in ("[]", "3", "{names: 3}", "{names: [1, 2], nc: x}", "{names: {a: b}}", "a: !!x b"):
        (path / "data.yaml").write_text(value)
        assert said(path)


def test_check__a_labelling_run_is_no_export(exports):
    with pytest.raises(DataError) as caught:
        check_export(exports / "run")
    assert str(caught.value) == f"{exports / 'run'} is a labelling run, and no export."
