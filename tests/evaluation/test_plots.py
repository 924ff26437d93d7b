from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from official_evaluation import random_case
from PIL import Image

from vildcli.evaluation.failure_sheet import SAID_COLOUR, TRUTH_COLOUR, write_failure_sheet
from vildcli.evaluation.failures import NO_NAME, Verdict
from vildcli.evaluation.partial_boxes import OverlapBin
from vildcli.evaluation.plots import (
    confusion_matrix,
    draw_confusion,
    draw_curves,
    draw_overlap_scores,
    mean_curves,
)
from vildcli.evaluation.predictions import predictions_of_results
from vildcli.evaluation.report import Report, Seen, Subject, report_on
from vildcli.evaluation.truth import load_truth

CLEAN = Seen("a model", {"init": "scratch"}, {}, knows_all=False)


def verdict(category: int, said: int | None, score: float = 0.5, image: int = 1) -> Verdict:
    region = None if said is None else (30.0, 34.0, 80.0, 78.0)
    return Verdict(image, category, (32.0, 32.0, 48.0, 48.0), 0.4, said, region, score)


def report(tmp_path: Path, *verdicts: Verdict, name: str = "c3", **changes: object) -> Report:
    content, results = random_case(1, 40)
    content["categories"][2]["name"] = name
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(content))
    Image.new("RGB", (128, 128), (200, 200, 210)).save(tmp_path / "1.png")
    values = {
        "predictions": predictions_of_results(results),
        "verdicts": verdicts,
        "files": {i: tmp_path / f"{i}.png" for i in range(1, 7)},
        **changes,
    }
    return report_on(Subject(CLEAN, "vild", load_truth(path), **values))  # type: ignore[arg-type]


def test_mean_curves__of_all_and_of_each_group(tmp_path: Path) -> None:
    found = report(tmp_path)
    box = found.results[0]
    curves = mean_curves(found, box)
    assert [name for name, _, _ in curves] == ["all", "rare", "common", "frequent"]
    for _, ids, curve in curves:
        assert curve == pytest.approx(np.mean([box.categories[i].curve for i in ids], axis=0))
        assert curve.mean() == pytest.approx(box.mean_ap50(ids))
    assert sorted(i for _, ids, _ in curves[1:] for i in ids) == curves[0][1]


def test_confusion_matrix__most_failing_first_with_missed_and_nameless_apart() -> None:
    verdicts = [verdict(1, 1), verdict(1, 2), verdict(1, 7), verdict(1, 7), verdict(2, None)]
    verdicts += [verdict(2, NO_NAME), verdict(3, 3), verdict(9, 1)]
    rows, columns, counts = confusion_matrix(verdicts, frozenset({1, 2, 3}), limit=2)
    assert rows == [1, 2]
    assert columns[:3] == [1, 2, 7]
    assert set(columns[3:]) == {NO_NAME, -2}
    assert counts.sum() == 6
    assert counts[0].tolist()[:3] == [1, 1, 2]
    assert counts[1, columns.index(-2)] == counts[1, columns.index(NO_NAME)] == 1


def test_pictures__are_drawn_and_the_same_every_time(tmp_path: Path) -> None:
    bins = (OverlapBin(0.2, 0.3, 9, 0.5, 4, 0.7), OverlapBin(0.9, 1.0, 3, 0.6, 0, None))
    found = report(tmp_path, verdict(3, 4), verdict(6, None), overlap_scores=bins)
    out = tmp_path / "out"
    for draw in (draw_curves, draw_confusion, draw_overlap_scores):
        path = draw(found, out)
        assert path is not None
        first = path.read_bytes()
        with Image.open(path) as picture:
            assert min(picture.size) > 200
            assert np.asarray(picture.convert("L")).std() > 5
        draw(found, out)
        assert path.read_bytes() == first


def test_pictures__take_names_in_any_script(tmp_path: Path) -> None:
    """Matplotlib's font lacks them and warns; a warning would be a failure here."""
    assert draw_confusion(report(tmp_path, verdict(3, 4), name="蘋果"), tmp_path / "out")


def test_pictures__of_nothing_are_none(tmp_path: Path) -> None:
    nothing = Report(report(tmp_path).subject)
    assert draw_curves(nothing, tmp_path / "out") is None
    assert draw_confusion(nothing, tmp_path / "out") is None
    assert draw_overlap_scores(nothing, tmp_path / "out") is None
    assert write_failure_sheet(nothing, tmp_path / "out") is None
    assert not (tmp_path / "out").exists()


def test_failure_sheet__shows_object_and_what_it_was_called(tmp_path: Path) -> None:
    found = report(tmp_path, verdict(3, 4, 0.9), verdict(3, None), verdict(6, 6), verdict(1, 2))
    path = write_failure_sheet(found, tmp_path / "out")
    assert path is not None
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    left, right = pixels[:, : pixels.shape[1] // 2], pixels[:, pixels.shape[1] // 2 :]
    # Two cells: rare c3 called c4, and c3 missed; c1 is common, c6 was found.
    assert count(left, TRUTH_COLOUR) > 100
    assert count(left, SAID_COLOUR) > 100
    assert count(right, TRUTH_COLOUR) > 100
    assert count(right, SAID_COLOUR) == 0


def count(pixels: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((np.abs(pixels - colour).max(axis=2) < 3).sum())


def test_failure_sheet__does_without_images_that_are_gone(tmp_path: Path) -> None:
    found = report(tmp_path, verdict(3, 4, image=2), verdict(3, None, image=1))
    assert write_failure_sheet(found, tmp_path / "out") is not None
    gone = report(tmp_path, verdict(3, 4, image=2))
    assert write_failure_sheet(gone, tmp_path / "gone") is None
