from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from wrong_exports import edit, said


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
