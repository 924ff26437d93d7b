from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from run_builder import VOCABULARY, ellipse_mask

from vildcli.errors import DataError
from vildcli.labelling.masks import mask_over_box
from vildcli.labelling.records import (
    AttributeScore,
    ImageRecord,
    LabelledImage,
    LabelRecord,
)
from vildcli.review.corrections import (
    MASK_SIDE,
    CategoryNames,
    Problems,
    ReviewedImage,
    ReviewedLabel,
    Tally,
    box_iou,
    compare,
    cut_record,
)
from vildcli.vocabulary.category import Category

NAMES = CategoryNames(VOCABULARY.categories)
NAME_OF = {1: "apple", 44: "pear", 90: "drinking straw"}
SIZE = (96, 64)
RECORD = ImageRecord(7, "photos", "a.png", *SIZE, "0" * 64, 1, 1, "ok", None)


def found(number: int, category_id: int, box, attributes=()) -> LabelRecord:
    return LabelRecord(
        number, number, category_id, True, 0.9, None, None, attributes, box, 0.8,
        ellipse_mask(), box,
    )  # fmt: skip


RED = (AttributeScore("colour", "red", 0.8, 0.7),)
LABELS = (
    found(0, 1, (4.25, 6.5, 40.75, 50.0), RED),
    found(1, 44, (50.0, 10.0, 90.5, 60.25)),
    found(2, 90, (80.0, 30.0, 120.0, 64.0)),  # over the border
)
IMAGE = LabelledImage(RECORD, LABELS)


def as_given(label: LabelRecord) -> ReviewedLabel:
    """What an import puts into the dataset."""
    box = cut_record(label, SIZE)
    return ReviewedLabel(
        label.label,
        NAME_OF[label.category_id],
        box,
        mask_over_box(label.mask, label.mask_box, box, MASK_SIDE),
        attributes={a.set: a.name for a in label.attributes},
    )


GIVEN = tuple(map(as_given, LABELS))


def reviewed(*labels: ReviewedLabel, tags=(), given=(0, 1, 2)) -> ReviewedImage:
    return ReviewedImage("sample", frozenset(tags), frozenset(given), labels)


def changes_of(label: ReviewedLabel) -> set[str]:
    return set(compare(IMAGE, reviewed(label), NAMES).labels[0].changes)


def test_compare__untouched_labels_are_no_changes():
    corrected = compare(IMAGE, reviewed(*GIVEN), NAMES)
    assert [label.changes for label in corrected.labels] == [frozenset()] * 3
    assert [label.record for label in corrected.labels] == list(LABELS)
    assert corrected.deleted == ()
    assert not corrected.is_reviewed
    assert corrected.right() == {0, 1, 2}


def test_compare__what_a_program_rounds_is_not_moved():
    x1, y1, x2, y2 = GIVEN[0].box
    assert changes_of(replace(GIVEN[0], box=(x1 + 0.05, y1, x2, y2 - 0.05))) == set()
    assert changes_of(replace(GIVEN[0], box=(x1 + 0.2, y1, x2, y2))) == {"moved"}


@pytest.mark.parametrize(
    ("label", "changes"),
    [
        (replace(GIVEN[0], name="pear"), {"relabelled"}),
        (replace(GIVEN[0], name="APPLE "), set()),
        (replace(GIVEN[0], mask=~np.asarray(GIVEN[0].mask)), {"reshaped"}),
        (replace(GIVEN[0], mask=None), {"reshaped"}),
        (replace(GIVEN[0], attributes={"colour": "green"}), {"reattributed"}),
        (replace(GIVEN[0], attributes={}), {"reattributed"}),
        (replace(GIVEN[0], tags=frozenset({"approved"})), {"approved"}),
        (replace(GIVEN[0], tags=frozenset({"look again"})), set()),
        (replace(GIVEN[0], number=None), {"added"}),
        (replace(GIVEN[0], number=55), {"added"}),  # of no label of the records
        (replace(GIVEN[1], box=(0, 0, 9, 9), name="apple"), {"moved", "relabelled"}),
    ],
)
def test_compare__changes(label, changes):
    assert changes_of(label) == changes


def test_compare__deleted_and_rejected_labels_are_gone():
    rejected = replace(GIVEN[2], tags=frozenset({"rejected"}))
    corrected = compare(IMAGE, reviewed(GIVEN[0], rejected), NAMES)
    assert [label.record for label in corrected.labels] == [LABELS[0]]
    assert corrected.deleted == (LABELS[1], LABELS[2])
    assert corrected.is_reviewed
    assert not corrected.is_tagged


def test_compare__a_label_that_was_never_given_is_not_deleted():
    corrected = compare(IMAGE, reviewed(*GIVEN[:2], given=(0, 1)), NAMES)
    assert corrected.deleted == ()
    assert [record.label for record in corrected.given] == [0, 1]


def test_compare__a_copy_of_a_label_is_added():
    corrected = compare(IMAGE, reviewed(GIVEN[0], GIVEN[0], *GIVEN[1:]), NAMES)
    assert [set(label.changes) for label in corrected.labels] == [set(), {"added"}, set(), set()]


@pytest.mark.parametrize("tag", ["reviewed", "approved"])
def test_corrected_image__a_tag_says_that_it_was_reviewed(tag):
    assert compare(IMAGE, reviewed(*GIVEN, tags=[tag]), NAMES).is_reviewed
    assert not compare(IMAGE, reviewed(*GIVEN, tags=["nice"]), NAMES).is_reviewed


def test_right__needs_the_name_and_half_the_place():
    x1, y1, x2, y2 = GIVEN[0].box
    width = x2 - x1
    near = replace(GIVEN[0], box=(x1 + width * 0.3, y1, x2 + width * 0.3, y2))  # IoU 0.538
    far = replace(GIVEN[0], box=(x1 + width * 0.4, y1, x2 + width * 0.4, y2))  # IoU 0.429
    assert compare(IMAGE, reviewed(near), NAMES).right() == {0}
    assert compare(IMAGE, reviewed(far), NAMES).right() == set()
    assert compare(IMAGE, reviewed(replace(GIVEN[0], name="pear")), NAMES).right() == set()


def test_box_iou():
    assert box_iou((0, 0, 10, 10), (5, 0, 15, 10)) == pytest.approx(1 / 3)
    assert box_iou((0, 0, 1, 1), (2, 2, 3, 3)) == 0
    assert box_iou((1, 1, 1, 1), (1, 1, 1, 1)) == 1


def test_category_names():
    names = CategoryNames(
        (
            Category(3, "bus", synonyms=("coach",)),
            Category(4, "Bus"),
            Category(5, "drinking_straw", synonyms=("bus",)),
        )
    )
    assert (names.find("bus"), names.find("Bus"), names.find("BUS")) == (3, 4, 3)
    assert (names.find("Coach"), names.find("drinking straw")) == (3, 5)
    assert names.find("quince") is None
    assert names.nearest("drinking straws") == "drinking_straw"
    assert names.nearest("zzz") is None


def refused(*labels: ReviewedLabel) -> DataError:
    problems = Problems()
    problems.look_at(compare(IMAGE, reviewed(*labels), NAMES))
    with pytest.raises(DataError) as error:
        problems.refuse(NAMES)
    return error.value


def test_problems__unknown_names():
    quince = replace(GIVEN[0], name="aple")
    error = refused(quince, replace(GIVEN[1], name="fig"), replace(quince, number=None))
    assert str(error) == (
        "Labels have names that the vocabulary lacks: 'aple' (2), 'fig' (1); the first is on a.png."
    )
    assert error.hint == (
        "Rename them in FiftyOne (to 'apple'?), or give a vocabulary that has them beside the "
        "run's as --vocab."
    )


@pytest.mark.parametrize(
    "box", [(100.0, 5.0, 120.0, 25.0), (50.0, -9.0, 60.0, 0.0), (9.0, 9.0, 9.0, 20.0)]
)
def test_problems__boxes_outside_their_image(box):
    error = refused(replace(GIVEN[1], box=box), replace(GIVEN[0], number=None, box=box))
    corners = " ".join(f"{side:.1f}" for side in box)
    assert str(error) == (
        f"a.png: the box {corners} of 'pear' covers nothing of its image of 96 x 64 pixels "
        "(2 labels do)."
    )
    assert error.hint == "Move or delete it in FiftyOne, and pull again."


def test_problems__a_box_partly_outside_is_none():
    problems = Problems()
    box = (90.0, -20.0, 300.0, 20.0)
    problems.look_at(compare(IMAGE, reviewed(replace(GIVEN[0], box=box)), NAMES))
    assert not problems
    problems.refuse(NAMES)


def test_tally__precision_counts_reviewed_labels_alone():
    tally = Tally()
    added = ReviewedLabel(None, "apple", (1, 1, 9, 9))
    wrong = replace(GIVEN[1], name="apple")
    tally.add(compare(IMAGE, reviewed(GIVEN[0], wrong, added), NAMES))
    tally.add(compare(IMAGE, reviewed(*GIVEN, tags=["reviewed"]), NAMES))
    assert (tally.images, tally.tagged, tally.labels, tally.kept, tally.deleted) == (2, 1, 6, 4, 1)
    assert dict(tally.changes) == {"relabelled": 1, "added": 1}
    rows = tally.precisions(VOCABULARY.by_id())
    assert [(row.name, row.labels, row.right, row.precision) for row in rows] == [
        ("apple", 2, 2, 1.0),
        ("drinking straw", 2, 1, 0.5),
        ("pear", 2, 1, 0.5),
    ]


def test_tally__an_approved_label_is_kept():
    tally = Tally()
    approved = replace(GIVEN[0], tags=frozenset({"approved"}))
    moved = replace(GIVEN[1], box=(0, 0, 9, 9), tags=frozenset({"approved"}))
    tally.add(compare(IMAGE, reviewed(approved, moved, GIVEN[2]), NAMES))
    assert (tally.kept, tally.changes["approved"], tally.changes["moved"]) == (2, 2, 1)
