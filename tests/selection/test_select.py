from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from choosable_run import Seen, choosable_run, write_annotations

from vildcli.data.lvis import load_annotations
from vildcli.errors import DataError, NothingToDoError
from vildcli.labelling.thresholds import view_run
from vildcli.selection.choice import Effort
from vildcli.selection.pool import read_pool
from vildcli.selection.select import Budget, Selection, SelectionOptions, select

IMAGES = (
    Seen("sure.png", (0.95,), (1, 0, 0)),
    Seen("torn.png", (0.5, 0.9), (0, 1, 0)),
    Seen("many.png", (0.45, 0.4, 0.4, 0.4), (0.6, 0.5, 0.1)),
    Seen("nothing.png", (0.05,), (0, 0, 1)),
    Seen("bad.png", broken=True, embedding=None),
    Seen("twin.png", (0.52, 0.9), (0, 1, 0.001)),
)


def chosen(
    run: Path, options: SelectionOptions, reviewed: Path | None = None, score: float = 0.1
) -> Selection:
    view = view_run(run)
    sets = [load_annotations(reviewed)] if reviewed else []
    return select(view, read_pool(view, reviewed=sets, pseudo_score=score), options)


def names(found: Selection) -> list[str]:
    return [one.candidate.image.path for one in found.chosen]


def test_read_pool__knows_what_may_be_chosen(tmp_path: Path) -> None:
    run = choosable_run(tmp_path, IMAGES)
    pool = read_pool(view_run(run))
    assert [c.image.path for c in pool.candidates] == [
        *("sure.png", "torn.png", "many.png", "nothing.png", "twin.png")
    ]
    assert pool.failed == 1
    assert [c.image.path for c in pool.without_boxes] == ["nothing.png"]
    np.testing.assert_allclose(pool.candidates[1].scores, [0.5, 0.9], rtol=1e-6)


def test_read_pool__a_score_at_the_limit_counts(tmp_path: Path) -> None:
    run = choosable_run(tmp_path, [Seen("a.png", (0.1, 0.0999))])
    assert len(read_pool(view_run(run)).candidates[0].scores) == 1


@pytest.mark.parametrize(
    ("strategy", "first"), [("entropy", "torn.png"), ("margin", "torn.png"), ("hybrid", None)]
)
def test_select__the_least_certain_first(tmp_path: Path, strategy: str, first: str) -> None:
    run = choosable_run(tmp_path, IMAGES)
    found = chosen(run, SelectionOptions(strategy, Budget(images=2)))  # type: ignore[arg-type]
    assert len(found.chosen) == 2
    assert first in (None, names(found)[0])
    assert "nothing.png" not in names(found)
    assert [c.image.path for c in found.left_out] == ["nothing.png"]
    assert len(found.chosen) + len(found.others) == 4


def test_select__coreset_and_random_take_images_without_boxes_too(tmp_path: Path) -> None:
    run = choosable_run(tmp_path, IMAGES)
    found = chosen(run, SelectionOptions("coreset", Budget(images=4)))
    assert {"sure.png", "nothing.png"} < set(names(found))
    assert not {"torn.png", "twin.png"} <= set(names(found))
    assert found.left_out == ()
    everything = chosen(run, SelectionOptions("random", Budget(images=9)))
    assert sorted(names(everything)) == sorted(i.name for i in IMAGES if not i.broken)


def test_select__coreset_keeps_away_from_reviewed_images(tmp_path: Path) -> None:
    run = choosable_run(tmp_path, IMAGES)
    done = write_annotations(tmp_path / "done.json", ["photos/torn.png", "photos/nothing.png"])
    found = chosen(run, SelectionOptions("coreset", Budget(images=1)), done)
    assert names(found) == ["sure.png"]


def test_select__reviewed_images_are_never_chosen(tmp_path: Path) -> None:
    run = choosable_run(tmp_path, IMAGES)
    done = write_annotations(tmp_path / "done.json", ["elsewhere/torn.png"])
    found = chosen(run, SelectionOptions("random", Budget(images=9)), done)
    assert "torn.png" not in names(found)
    assert len(found.chosen) == 4


def test_select__diverse_puts_copies_last(tmp_path: Path) -> None:
    run = choosable_run(tmp_path, IMAGES)
    plain = chosen(run, SelectionOptions("margin", Budget(images=2)))
    assert names(plain) == ["torn.png", "twin.png"]
    spread = chosen(run, SelectionOptions("margin", Budget(images=2), diverse=True))
    assert names(spread) == ["torn.png", "many.png"]
    done = write_annotations(tmp_path / "done.json", ["torn.png"])
    beside = chosen(run, SelectionOptions("margin", Budget(images=3), diverse=True), done)
    assert names(beside) == ["many.png", "sure.png", "twin.png"]


def test_select__per_box_and_per_minute_prefer_cheap_images(tmp_path: Path) -> None:
    run = choosable_run(tmp_path, [Seen("two.png", (0.5, 0.5)), Seen("one.png", (0.45,))])
    assert names(chosen(run, SelectionOptions("margin", Budget(images=1)))) == ["two.png"]
    for per in ("box", "minute"):
        options = SelectionOptions("margin", Budget(images=1), per=per, effort=Effort(0.1, 6))  # type: ignore[arg-type]
        assert names(chosen(run, options)) == ["one.png"]
    found = chosen(run, SelectionOptions("margin", Budget(images=2), effort=Effort(10, 5)))
    two, one = found.chosen
    assert (two.per_box, two.minutes) == (pytest.approx(0.5), pytest.approx(20 / 60))
    assert two.per_minute == pytest.approx(3)
    assert found.minutes == pytest.approx(35 / 60)
    assert one.value == pytest.approx(0.9)


def test_select__hybrid_takes_what_differs_out_of_what_is_uncertain(tmp_path: Path) -> None:
    hard = [Seen(f"hard{i}.png", (0.5, 0.5, 0.5), (0, 1, 0.001 * i)) for i in range(4)]
    run = choosable_run(
        tmp_path,
        [*hard, Seen("odd.png", (0.5, 0.4), (1, 0, 0)), *[Seen(f"{i}.png", (0.99,)) for i in "ab"]],
    )
    found = chosen(run, SelectionOptions("hybrid", Budget(images=2)))
    assert "odd.png" in names(found)
    assert len([name for name in names(found) if name.startswith("hard")]) == 1


def test_select__a_share_of_the_candidates(tmp_path: Path) -> None:
    assert Budget(share=0.5).of(5) == 2
    assert Budget(share=0.001).of(5) == 1
    assert Budget(images=7).of(5) == 5


def test_select__says_what_is_missing(tmp_path: Path) -> None:
    bare = choosable_run(tmp_path, [Seen("a.png", (0.05,), None), Seen("b.png", (), None)])
    with pytest.raises(DataError, match="holds no image embeddings") as caught:
        chosen(bare, SelectionOptions("coreset", Budget(images=1)))
    assert str(caught.value) == f"{bare} holds no image embeddings."
    with pytest.raises(NothingToDoError) as nothing:
        chosen(bare, SelectionOptions("entropy", Budget(images=1)))
    assert str(nothing.value) == f"{bare} has no unreviewed image with a pseudo box."
    assert nothing.value.hint == "Give a lower --pseudo-score, or --strategy random."
    done = write_annotations(tmp_path / "done.json", ["a.png", "b.png"])
    with pytest.raises(NothingToDoError) as left:
        chosen(bare, SelectionOptions("random", Budget(images=1)), done)
    assert str(left.value) == (
        f"{bare} has no image left to choose: 2 are reviewed, 0 could not be read."
    )
    other = write_annotations(tmp_path / "other.json", ["x.png"])
    with pytest.raises(DataError) as strange:
        chosen(bare, SelectionOptions("random", Budget(images=1)), other)
    assert str(strange.value) == f"None of the 1 images of {other} is in {bare}."
