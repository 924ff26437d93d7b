from __future__ import annotations

import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from run_builder import DrawnImage, DrawnLabel, build_run

from vildcli.errors import DataError
from vildcli.labelling import records
from vildcli.labelling.thresholds import view_run
from vildcli.reporting.tally import EXAMPLES, Tally, tally_run
from vildcli.vocabulary.category import Category, Vocabulary
from vildcli.vocabulary.files import save_vocabulary

WORDS = Vocabulary(
    "fruit",
    (Category(7, "apple"), Category(3, "pear", threshold=0.6), Category(9, "plum")),
    attributes={"colour": ("red", "green")},
)
BOX = (2.0, 2.0, 12.0, 12.0)


def label(category_id: int, score: float, colour: str = "red") -> DrawnLabel:
    return DrawnLabel(category_id, score, BOX, attributes=(("colour", colour, 0.5),))


def images(count: int = 40) -> list[DrawnImage]:
    """Each with a few labels, scores from a fixed generator; the third cannot be read."""
    generator = np.random.default_rng(0)
    drawn = []
    for i in range(count):
        labels = [
            label(int(c), float(s), colour)
            for c, s, colour in zip(
                generator.choice([7, 3], 5), generator.random(5), ["red", "green"] * 3, strict=False
            )
        ]
        drawn.append(DrawnImage(f"{i}.png", (16, 16), labels))
    drawn[2] = DrawnImage("2.png", None)
    return drawn


def tally(tmp_path: Path, unit_size: int = 7, **more: Any) -> tuple[Tally, Any]:
    folder = tmp_path / str(unit_size)
    run = build_run(
        folder / "run", folder / "photos", images(), vocabulary=WORDS, unit_size=unit_size
    )
    view = view_run(run)
    return tally_run(view, **more), view


def test_tally_run__counts_what_a_view_shows(tmp_path: Path) -> None:
    found, view = tally(tmp_path, chosen=(1, 2, 5), wanted=(1, 40, 99))
    every = list(view.labelled_images())
    shown = [(image.image.image_id, one) for image in every for one in view.shown(image)]
    assert (found.images, found.failed) == (40, 1)
    assert found.labelled == len({image_id for image_id, _ in shown})
    assert found.stored == sum(len(image.labels) for image in every)
    assert found.shown == len(shown)
    assert found.histograms.sum(axis=1).tolist() == [found.stored, found.shown]
    assert found.failures == [("photos/2.png", "2.png: not an image.")]
    assert found.places == {1: (0, "photos/0.png"), 40: (5, "photos/39.png")}
    assert set(found.categories) == {7, 3}  # nothing is called plum
    for category_id, row in found.categories.items():
        own = [(image_id, one) for image_id, one in shown if one.category_id == category_id]
        assert row.shown == len(own)
        assert row.images == len({image_id for image_id, _ in own})
        assert row.chosen == len({image_id for image_id, _ in own} & {1, 2, 5})
        assert row.mean == pytest.approx(np.mean([one.score for _, one in own]))
        assert row.histogram.sum() == row.stored
    colours = found.attributes["colour"]
    assert sum(value.labels for value in colours.values()) == len(shown)
    red = [one for _, one in shown if one.attributes[0].name == "red"]
    assert colours["red"].labels == len(red)
    assert colours["red"].total == pytest.approx(0.5 * len(red))
    assert colours["red"].categories[7] == sum(one.category_id == 7 for one in red)


def test_tally_run__examples_are_best_worst_and_drawn_one_an_image(tmp_path: Path) -> None:
    found, view = tally(tmp_path)
    for category_id, row in found.categories.items():
        best_of: dict[int, float] = {}
        worst_of: dict[int, float] = {}
        for image in view.labelled_images():
            own = [one.score for one in view.shown(image) if one.category_id == category_id]
            if own:
                best_of[image.image.image_id], worst_of[image.image.image_id] = max(own), min(own)
        kept = row.examples()
        assert [len(rows) for rows in kept.values()] == [EXAMPLES] * 3
        scores = {kind: [example.score for example in rows] for kind, rows in kept.items()}
        assert scores["best"] == sorted(best_of.values(), reverse=True)[:EXAMPLES]
        assert scores["worst"] == sorted(worst_of.values())[:EXAMPLES]
        assert min(scores["random"]) >= view.thresholds[category_id]
        places = [(e.image_id, e.label) for rows in kept.values() for e in rows]
        assert len(set(places)) == len(places)
        for rows in kept.values():
            assert len({example.image_id for example in rows}) == EXAMPLES


def test_tally_run__does_not_depend_on_units(tmp_path: Path) -> None:
    (small, _), (large, _) = tally(tmp_path, 3), tally(tmp_path, 40)
    for category_id, row in small.categories.items():
        for one, other in zip(
            row.examples().values(), large.categories[category_id].examples().values(), strict=True
        ):
            assert [replace(e, unit=0) for e in one] == [replace(e, unit=0) for e in other]
    assert small.attributes == large.attributes
    assert small.ranked() == large.ranked()


def test_tally_run__few_labels_are_shown_once(tmp_path: Path) -> None:
    drawn = [DrawnImage(f"{i}.png", (16, 16), [label(7, 0.4 + i / 10)]) for i in range(5)]
    run = build_run(tmp_path / "run", tmp_path / "photos", drawn, vocabulary=WORDS)
    kept = tally_run(view_run(run)).categories[7].examples()
    assert [len(rows) for rows in kept.values()] == [4, 1, 0]


def test_tally_run__nothing_at_all(tmp_path: Path) -> None:
    run = build_run(tmp_path / "run", tmp_path / "photos", [DrawnImage("a.png", (16, 16))])
    found = tally_run(view_run(run))
    assert (found.images, found.labelled, found.stored, found.ranked()) == (1, 0, 0, [])


def test_tally_run__a_category_that_the_vocabulary_lost(tmp_path: Path) -> None:
    _, view = tally(tmp_path)
    save_vocabulary(Vocabulary("fruit", WORDS.categories[:1]), view.run / "vocabulary.yaml")
    with pytest.raises(DataError) as caught:
        tally_run(view_run(view.run))
    assert str(caught.value) == (f"{view.run / 'vocabulary.yaml'} lacks category 3 of the labels.")


def test_tally_run__memory_does_not_grow_with_the_run(tmp_path: Path) -> None:
    run = build_run(tmp_path / "run", tmp_path / "photos", images(16), vocabulary=WORDS)
    tables = {
        name: records.read_part(run, name, 0).to_pylist()
        for name in ("images", "regions", "labels")
    }
    peaks = []
    for units in (10, 80):
        for unit in range(units):
            for name, rows in tables.items():
                moved = [{**row, "image_id": row["image_id"] + 100 * unit} for row in rows]
                records.write_part(run, name, unit, moved)
        view = view_run(run)
        tally_run(view)
        tracemalloc.start()
        assert tally_run(view).images == 2 * units
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]
