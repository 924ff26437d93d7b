"""Which format a file is of, and that nothing in it is a crash."""

from __future__ import annotations

import json
import random
import shutil

import pytest

from vildcli.errors import DataError
from vildcli.export import FORMATS
from vildcli.export.checks import check_export


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


def test_format_of__by_content_not_by_name(exported, tmp_path):
    for name in ("coco-box", "lvis-box", "labelstudio-rle", "cvat-box", "csv-box", "parquet-rle"):
        form = name.partition("-")[0]
        shutil.copy(exported(name) / FORMATS[form].name, tmp_path / "file.dat")
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
def test_check__whatever_stands_there_is_no_crash(copied, name, file):
    form = name.partition("-")[0]
    path = copied(name).parent / file
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


def test_check__a_labelling_run_is_no_export(odd_run):
    with pytest.raises(DataError) as caught:
        check_export(odd_run)
    assert str(caught.value) == f"{odd_run} is a labelling run, and no export."
