from __future__ import annotations

import base64
import io
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from run_builder import IMAGES, VOCABULARY, DrawnImage, DrawnLabel, build_run

from vildcli.errors import DataError, RunError
from vildcli.labelling import records
from vildcli.labelling.summary import LabellingSummary, remember_call
from vildcli.reporting.page import text
from vildcli.reporting.pictures import CROP_SIDE
from vildcli.reporting.report import ReportSummary, write_report
from vildcli.review.drawing import category_colour
from vildcli.vocabulary.category import Category, Vocabulary

HOSTILE = [
    "<script>document.title='owned'</script>",
    "<img src=x onerror=\"document.title='owned'\">",
    "\"' onmouseover='alert(1)' x=\"",
    "</title></style></h3><h1>owned</h1>",
    "&lt;b&gt; &amp; javascript:alert(1)",
    "]]><!-- --><svg onload=alert(1)>",
    "\u202egnp.elppa",
]
VOID = {"meta", "img", "path", "br"}


class Page(HTMLParser):
    """What a browser would make of a page: its elements, and its text without the style."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def pictures(self) -> list[Image.Image]:
        found = [dict(values)["src"] or "" for tag, values in self.elements if tag == "img"]
        return [
            Image.open(io.BytesIO(base64.b64decode(source.removeprefix("data:image/jpeg;base64,"))))
            for source in found
        ]


def build(run: Path, photos: Path, images: Sequence[DrawnImage] = IMAGES, **more: Any) -> Path:
    """A run whose images have bytes of their own."""
    own = [replace(image, sha256=f"{i:016x}") for i, image in enumerate(images)]
    return build_run(run, photos, own, **more)


def report(run: Path, **choices: Any) -> tuple[Page, ReportSummary]:
    summary = write_report(run, **choices)
    page = Page(summary.out.read_text(encoding="utf-8"))
    assert page.open == []
    assert summary.bytes == summary.out.stat().st_size
    assert len(page.pictures()) >= summary.pictures
    return page, summary


@pytest.fixture
def run(tmp_path: Path) -> Path:
    words = replace(VOCABULARY, attributes={"colour": ("red", "green")})
    return build(tmp_path / "run", tmp_path / "photos", vocabulary=words)


def test_report__says_what_the_run_holds(run: Path) -> None:
    page, summary = report(run)
    assert summary.out == run / "report.html"
    assert (summary.images, summary.labels, summary.categories, summary.pictured) == (4, 4, 3, 3)
    for words in (
        "4 images",
        "4 labels shown",
        "6 labels stored",
        "3 of 3 categories found",
        "1 images failed",
        "apple 2 labels on 2 images, 2 stored; threshold 0.30",
        "pear 1 label on 1 image, 2 stored; threshold 0.50",
        "photos/broken.jpg broken.jpg: not an image.",
        "red 1 100% 0.75 apple (1)",
        "2 different thresholds, from 0.30 to 0.50.",
    ):
        assert words in page.text, words


def test_report__needs_nothing_else(run: Path) -> None:
    page, _ = report(run)
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "link", "iframe", "object", "form", "base", "video"}
    for tag, values in page.elements:
        for name, value in values.items():
            assert not name.startswith("on")
            if name in ("src", "href", "srcset", "data", "action", "style"):
                assert value is not None
                assert value.startswith(("#", "data:image/jpeg;base64,")), (tag, name)
    source = (run / "report.html").read_text(encoding="utf-8")
    assert "http" not in source.replace("http-equiv", "")
    assert "url(" not in source
    assert "@import" not in source
    policies = [v["content"] for t, v in page.elements if v.get("http-equiv")]
    assert policies == [
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; "
        "form-action 'none'"
    ]
    anchors = {values["id"] for _, values in page.elements if "id" in values}
    links = {(v["href"] or "")[1:] for t, v in page.elements if t == "a"}
    assert links == anchors


def hostile_run(tmp_path: Path) -> Path:
    """Names of the run, categories, attributes, images and reasons that are HTML."""
    words = Vocabulary(
        HOSTILE[0],
        tuple(Category(i, name) for i, name in enumerate(HOSTILE, start=1)),
        attributes={HOSTILE[1]: (HOSTILE[2], HOSTILE[3])},
    )
    drawn = [
        DrawnImage(
            name.replace("/", "∕") + ".png",
            (48, 32),
            [DrawnLabel(i, 0.9, (4, 4, 30, 20), True, ((HOSTILE[1], HOSTILE[2], 0.5),))],
        )
        for i, name in enumerate(HOSTILE, start=1)
    ]
    drawn.append(DrawnImage(HOSTILE[1].replace("/", "∕"), None))
    run = build(tmp_path / "<b>run<", tmp_path / "<i>photos", drawn, vocabulary=words)
    choice = {"strategy": HOSTILE[0], "image_ids": [1, 2, 3]}
    (run / "selection.json").write_text(json.dumps(choice), encoding="utf-8")
    return run


def test_report__names_do_nothing(tmp_path: Path) -> None:
    page, _ = report(hostile_run(tmp_path))
    assert not {tag for tag, _ in page.elements} & {"script", "b<", "i"}
    assert [tag for tag, _ in page.elements].count("h1") == 1
    for tag, values in page.elements:
        assert not [name for name in values if name.startswith("on")], tag
        if tag == "img":
            assert (values["src"] or "").startswith("data:image/jpeg;base64,")
    for name in HOSTILE[:-1]:
        assert " ".join(name.split()) in page.text  # shown as it is
    assert "\u202e" not in page.text
    assert f"chosen by {HOSTILE[0]}" in page.text


def test_text__leaves_nothing_that_ends_an_attribute_or_is_unseen() -> None:
    assert text("<a & 'b' \"c\">\x00\x1b\u202e") == (
        "&lt;a &amp; &#x27;b&#x27; &quot;c&quot;&gt;\ufffd\ufffd\ufffd"
    )
    assert text("a\tb\nc é 日本 🍎") == "a\tb\nc é 日本 🍎"


def test_report__pictures_are_cut_around_their_labels(tmp_path: Path) -> None:
    """A box in a corner of a large image fills most of its picture, in its colour."""
    box = (10.0, 20.0, 60.0, 70.0)
    drawn = [DrawnImage("a.png", (800, 600), [DrawnLabel(1, 0.9, box)])]
    run = build(tmp_path / "run", tmp_path / "photos", drawn)
    page, summary = report(run)
    (picture,) = page.pictures()
    assert summary.pictures == 1
    assert max(picture.size) == CROP_SIDE
    pixels = np.asarray(picture.convert("RGB")).astype(int)
    near = (abs(pixels - np.array(category_colour(1))).max(axis=2) < 60).nonzero()
    extent = [np.ptp(axis) + 1 for axis in near]
    assert min(extent) > 0.55 * CROP_SIDE  # the box's side is 1 / 1.6 of the picture's


def test_report__a_label_that_its_name_has_moved(tmp_path: Path) -> None:
    drawn = [DrawnImage("a.png", (400, 400), [DrawnLabel(1, 0.9, (10, 10, 40, 40))])]
    run = build(tmp_path / "run", tmp_path / "photos", drawn)
    plain, _ = report(run)
    if "box" not in records.SCHEMAS["labels"].names:
        pytest.skip("labels have no boxes of their own")
    rows = records.read_part(run, "labels", 0).to_pylist()
    moved = [{**row, "box": [300.0, 300.0, 380.0, 380.0]} for row in rows]
    records.write_part(run, "labels", 0, moved)
    page, _ = report(run)
    assert page.pictures()[0].tobytes() != plain.pictures()[0].tobytes()


@pytest.mark.parametrize("size", [(1, 1), (2000, 3), (3, 2000)])
def test_report__images_of_any_shape(tmp_path: Path, size: tuple[int, int]) -> None:
    labels = [
        DrawnLabel(1, 0.9, (0.0, 0.0, *map(float, size))),
        DrawnLabel(1, 0.8, (-50, -50, 1, 1)),
    ]
    labels.append(DrawnLabel(44, 0.8, (0.5, 0.5, 0.5, 0.5)))
    run = build(tmp_path / "run", tmp_path / "photos", [DrawnImage("a.png", size, labels)])
    page, summary = report(run)
    assert summary.missing == 0
    assert len(page.pictures()) == 3


def test_report__images_that_are_gone_are_said_and_the_numbers_stay(
    run: Path, tmp_path: Path
) -> None:
    shutil.move(tmp_path / "photos", tmp_path / "moved")
    page, summary = report(run)
    assert (summary.pictures, summary.missing) == (0, 2)
    assert summary.why.startswith("a.png: cannot be read")
    assert f"2 images could not be shown. {summary.why}" in page.text
    assert "4 labels shown" in page.text
    _, found = report(run, images_root=tmp_path / "moved")
    assert (found.pictures, found.missing) == (4, 0)


def test_report__conf_and_fewer_categories(run: Path, tmp_path: Path) -> None:
    page, summary = report(run, conf=0.7, out=tmp_path / "deep" / "page.html", categories=1)
    assert summary.out == tmp_path / "deep" / "page.html"
    assert (summary.labels, summary.pictured, summary.pictures) == (2, 1, 2)
    assert (
        "Pictures of the 1 categories with most shown labels. 2 more are in the table" in page.text
    )


def test_report__says_what_thresholds_were_calibrated_for(tmp_path: Path) -> None:
    step = {"step": "calibrate", "target_precision": 0.9, "method": "isotonic"}
    words = replace(VOCABULARY, provenance=(step,))
    page, _ = report(build(tmp_path / "run", tmp_path / "photos", vocabulary=words))
    assert "Calibrated for a precision of 0.9, isotonic." in page.text


def test_report__no_label_reaches_its_threshold(run: Path) -> None:
    page, summary = report(run, conf=1.0)
    assert (summary.labels, summary.pictured, summary.pictures) == (0, 0, 0)
    assert "0 of 3 categories found" in page.text


def test_report__no_label_at_all(tmp_path: Path) -> None:
    drawn = [DrawnImage("a.png", (16, 16)), DrawnImage("b.png", (16, 16))]
    page, _ = report(build(tmp_path / "run", tmp_path / "photos", drawn))
    assert "The run has no labels." in page.text
    assert "Every image could be read." in page.text
    assert "No call of detect has left its times in this run." in page.text


def test_report__of_a_run_that_goes_on(tmp_path: Path) -> None:
    run = build(tmp_path / "run", tmp_path / "photos", finished=1)
    page, summary = report(run)
    assert "The run is not complete: 1 of 2 units are done." in page.text
    assert summary.images == 2


def test_report__images_chosen_for_review(run: Path) -> None:
    choice = {"strategy": "isal", "image_ids": [2, 1, 99]}
    (run / "selection.json").write_text(json.dumps(choice))
    page, summary = report(run)
    assert "3 images chosen by isal; here 2 of them." in page.text
    assert "for review" in page.text
    assert "apple 1 2 2 2 0.85 0.30 2" in page.text
    assert "pear 44 1 1 2 0.60 0.50 1" in page.text
    assert summary.pictures == 4 + 2


@pytest.mark.parametrize("content", ["{", "[]", '{"strategy": "isal"}', '{"image_ids": 3}'])
def test_report__a_damaged_choice(run: Path, content: str) -> None:
    (run / "selection.json").write_text(content)
    with pytest.raises(DataError) as caught:
        write_report(run)
    assert str(caught.value).startswith(f"{run / 'selection.json'} is damaged: ")
    assert caught.value.hint == "Delete it, or run vildcli select again."


def test_report__duplicates(tmp_path: Path) -> None:
    images = [replace(image, sha256=f"{i % 2:016x}") for i, image in enumerate(IMAGES)]
    page, summary = report(build_run(tmp_path / "run", tmp_path / "photos", images))
    assert "1 image of the same bytes as another" in page.text  # the broken one does not count
    assert "2 images, the same bytes" in page.text
    assert summary.pictures == 4 + 2


def test_report__duplicates_that_detect_has_found_are_read(run: Path) -> None:
    rows = [{"kind": "near", "cosine": 0.98, "image_ids": [1, 2, 4], "paths": []}]
    rows += [{"kind": "exact", "cosine": None, "image_ids": [1, 2], "paths": []}] * 20
    (run / "duplicates.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    page, _ = report(run)
    assert "20 images of the same bytes as another, 2 of much the same content." in page.text
    assert "3 images, cosine 0.980" in page.text
    assert "9 groups more: duplicates.jsonl." in page.text


def test_report__what_calls_took(run: Path) -> None:
    summary = LabellingSummary(str(run), 4, 3, 1, 0, 1, 6, 12.5, 0.24, 812.0)
    remember_call(run, summary, {"forward": 0.75, "decode": 0.25})
    remember_call(run, replace(summary, images_per_second=2.5), {})
    page, _ = report(run)
    assert "2.50 images a second" in page.text
    assert "1 3 12.50 0.24 812.00 75% forward, 25% decode" in page.text
    with (run / "calls.jsonl").open("a") as file:
        file.write('{"images": 3, "seco')
    again, _ = report(run)
    assert again.text == page.text


def test_report__the_same_run_gives_the_same_bytes(run: Path, tmp_path: Path) -> None:
    one, other = (write_report(run, tmp_path / name).out for name in ("a.html", "b.html"))
    assert one.read_bytes() == other.read_bytes()


def test_report__more_failures_than_are_listed(tmp_path: Path) -> None:
    drawn = [DrawnImage(f"{i}.jpg", None) for i in range(103)]
    page, _ = report(build(tmp_path / "run", tmp_path / "photos", drawn, unit_size=50))
    assert "3 more: failed.jsonl." in page.text
    assert "photos/99.jpg" in page.text


def test_report__a_place_that_cannot_be_written(run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "page.html"
    with pytest.raises(RunError) as caught:
        write_report(run, out)
    assert str(caught.value).startswith(f"{out} cannot be written: ")
