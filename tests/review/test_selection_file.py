"""What `vildcli select` leaves in a run, as a review reads it."""

from __future__ import annotations

import pytest

from vildcli.errors import DataError
from vildcli.review.fiftyone_views import read_selection


def test_read_selection(tmp_path):
    assert read_selection(tmp_path) == ()
    (tmp_path / "selection.json").write_text('{"strategy": "isal", "image_ids": [7, 3]}')
    assert read_selection(tmp_path) == (7, 3)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"strategy": "isal"', "Expecting ',' delimiter: line 1 column 20 (char 19)"),
        ('{"strategy": "isal"}', "'image_ids'"),
        ('{"image_ids": ["a.png"]}', "an id is not a whole number"),
        ('{"image_ids": 3}', "'int' object is not iterable"),
    ],
)
def test_read_selection__of_something_else(tmp_path, text, why):
    path = tmp_path / "selection.json"
    path.write_text(text)
    with pytest.raises(DataError) as error:
        read_selection(tmp_path)
    assert str(error.value) == f"{path} is no selection: {why}."
    assert error.value.hint == "Delete it, or run select again."
