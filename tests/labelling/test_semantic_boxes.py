"""Boxes that names have a say in (EZSD): stored regions take any vocabulary, as `detect` would."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from stub_model import StubModel, draw_images
from tiny_detector import tiny_card, tiny_detector
from tiny_student import save_clip

from vildcli.checkpoint import load_model, save_model
from vildcli.cli import run
from vildcli.detector.boxes import BOX_CODE_WEIGHTS, decode_boxes
from vildcli.export.coco import export_coco
from vildcli.export.selection import Selection
from vildcli.labelling.ask import answer, find_regions
from vildcli.labelling.detectors import Student, in_tiles
from vildcli.labelling.head import read_head
from vildcli.labelling.label import LabellingJob, label_images
from vildcli.labelling.masks import mask_to_rle
from vildcli.labelling.model import open_asking_model
from vildcli.labelling.options import LabellingOptions
from vildcli.labelling.records import LabelRecord, iter_labelled_images, read_part
from vildcli.labelling.relabel import stored_regions
from vildcli.labelling.run import open_labelling_run
from vildcli.labelling.sources import find_images
from vildcli.labelling.thresholds import view_run
from vildcli.labelling.tiles import Tiling
from vildcli.text.bank import embed_categories
from vildcli.text.encoder import text_encoder_of, text_tower_state
from vildcli.text.open_clip_models import load_open_clip
from vildcli.vocabulary.category import Category, Vocabulary

FRUIT = Vocabulary("fruit", (Category(1, "apple"), Category(2, "pear")))
WORDS, OTHERS = "apple, banana", "plum, house, tree"


@pytest.fixture
def student(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An ezsd model with random weights, whose names move boxes by a lot."""
    monkeypatch.setenv("VILDCLI_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    encoder = text_encoder_of(load_open_clip(save_clip(tmp_path / "clip"), offline=True))
    config, tower = text_tower_state(encoder)
    detector = tiny_detector("ezsd")
    torch.nn.init.normal_(detector.word_boxes.weight, std=3)  # type: ignore[union-attr]
    torch.nn.init.constant_(detector.background, -0.2)  # not all is background
    detector.logit_scale.data.fill_(2.0)  # type: ignore[union-attr]
    card = tiny_card("ezsd", text_encoder=config, temperature=encoder.temperature)
    path = tmp_path / "student.safetensors"
    save_model(path, detector, tower, card)
    photos = tmp_path / "photos"
    photos.mkdir()
    for i, size in enumerate(((64, 40), (50, 70), (64, 40))):
        generator = torch.Generator().manual_seed(i)
        noise = torch.randint(0, 256, (*size, 3), dtype=torch.uint8, generator=generator)
        Image.fromarray(noise.numpy()).save(photos / f"{i}.png")
    return path


def detect(student: Path, classes: str, out: str, *more: str) -> Path:
    arguments = ["--model", str(student), "--classes", classes, "--offline", "--device", "cpu"]
    fixed = ["--regions", "20", "--workers", "1", "--out", out]
    assert run(["detect", "photos", *arguments, *fixed, *more]) == 0
    return Path(out)


def labels_of(run_folder: Path) -> list[LabelRecord]:
    return [label for image in iter_labelled_images(run_folder) for label in image.labels]


def rows_of(run_folder: Path) -> pa.Table:
    return read_part(run_folder, "labels", 0)


def test_relabelled_is_detected__bit_by_bit(student: Path) -> None:
    first = detect(student, WORDS, "first", "--keep-regions")
    arguments = ["--classes", OTHERS, "--offline", "--out", "again"]
    assert run(["relabel", str(first), *arguments]) == 0
    direct = detect(student, OTHERS, "direct")
    assert rows_of(Path("again")).equals(rows_of(direct))
    assert [label.box for label in labels_of(Path("again"))] == [
        label.box for label in labels_of(direct)
    ]
    boxes = {label.region: label.box for label in labels_of(direct)}
    before = {label.region: label.box for label in labels_of(first)}
    common = boxes.keys() & before.keys()
    assert common
    assert any(boxes[row] != before[row] for row in common)  # another name, another box


def test_tiles__codes_stay_those_of_their_boxes(student: Path) -> None:
    detector = Student(load_model(student, torch.device("cpu")).detector, 20)
    pixels = torch.randint(0, 256, (3, 60, 90), dtype=torch.uint8)
    [regions] = in_tiles(detector, Tiling(40)).regions([pixels])
    assert regions.size == (90, 60)
    assert regions.box_codes is not None
    boxes = decode_boxes(regions.box_codes, regions.proposals, BOX_CODE_WEIGHTS)
    inside = (boxes >= 0).all(1) & (boxes <= torch.tensor([90.0, 60, 90, 60])).all(1)
    whole = inside & (regions.boxes - boxes).abs().lt(1e-2).all(1)  # the others a tile cut
    assert whole.sum() > 3


def test_label_boxes__are_those_of_the_published_layer(student: Path) -> None:
    first = detect(student, WORDS, "first", "--keep-regions", "--context", "none")
    head, moved = read_head(first).head, 0
    words = embedded(first, student)
    by_image: dict[int, Any] = dict(stored_regions(first, 0))
    for image in iter_labelled_images(first):
        regions = by_image[image.image.image_id]
        assert regions.size == (image.image.width, image.image.height)
        for label in image.labels:
            word = words[label.category_id - 1]
            codes = regions.box_codes[label.region] + head.word_boxes @ word
            box = decode_boxes(codes, regions.proposals[label.region], BOX_CODE_WEIGHTS)
            limit = torch.tensor([*regions.size] * 2)
            expected = box.clamp(min=0).minimum(limit)
            own = regions.boxes[label.region]
            found = torch.tensor(label.box)
            is_background = torch.equal(found, own)
            assert is_background or torch.allclose(found, expected, atol=1e-3)
            moved += not is_background
            assert label.mask_box == tuple(own.tolist())  # where the mask was predicted
    assert moved > 3


def embedded(first: Path, student: Path) -> torch.Tensor:
    opened = open_asking_model(None, LabellingOptions(model=str(student), offline=True))
    prompts = read_head(first).prompts
    assert prompts is not None
    names = tuple(Category(i, name) for i, name in enumerate(("apple", "banana"), 1))
    return embed_categories(names, opened.reader.encoder, prompts)


def test_masks__are_pasted_where_they_were_predicted(student: Path, tmp_path: Path) -> None:
    first = detect(student, WORDS, "first")
    image = next(image for image in iter_labelled_images(first) if image.labels)
    label = next(label for label in image.labels if label.box != label.mask_box)
    export_coco(Selection(view_run(first, conf=0.0)), tmp_path / "coco.json")
    content = json.loads((tmp_path / "coco.json").read_text())
    found = next(
        a
        for a in content["annotations"]
        if a["image_id"] == image.image.image_id and a["score"] == pytest.approx(label.score)
    )
    size = image.image.height, image.image.width
    assert found["segmentation"] == mask_to_rle(label.mask, label.mask_box, *size)
    x, y, width, height = found["bbox"]
    assert (x, y, x + width, y + height) == pytest.approx(label.box, abs=1e-3)


def test_model__carries_what_its_boxes_and_scores_need(student: Path) -> None:
    model = load_model(student, torch.device("cpu"))
    head = model.detector.scoring_head(model.card.temperature)
    first = detect(student, WORDS, "first", "--keep-regions")
    kept = read_head(first).head
    assert head.word_boxes is not None
    assert kept.word_boxes is not None
    assert torch.equal(kept.word_boxes, head.word_boxes)
    assert kept.free_background
    assert kept.temperature == pytest.approx(torch.exp(torch.tensor(-2.0)).item())
    assert set(load_file(first / "regions" / "head.safetensors")) == {"background", "word_boxes"}


def test_ask__answers(student: Path) -> None:
    model = open_asking_model(None, LabellingOptions(model=str(student), offline=True))
    pixels = torch.zeros(300, 300, 3, dtype=torch.uint8).numpy()
    found = find_regions(model, pixels, objectness=0.0)
    answers = answer(found, model.reader.embed(["a plum", "a tree"]))
    assert len(answers) == len(found) > 0
    assert all(len(region.scores) == 2 and region.name for region in answers)


def test_runs_of_other_systems_and_older_ones__say_nothing_of_it(tmp_path: Path) -> None:
    photos = draw_images(tmp_path / "photos", 2)
    folder = open_labelling_run(tmp_path / "run", find_images([str(photos)]), {}, FRUIT).folder
    label_images(folder, StubModel(), LabellingJob(keep_regions=True))
    assert rows_of(folder).column("box").null_count == len(rows_of(folder))
    assert all(label.box == label.mask_box for label in labels_of(folder))
    before = labels_of(folder)[0].box
    _without(folder / "labels" / "000000.parquet", "box")  # as a run made before
    _without(folder / "regions" / "000000.parquet", "box_code")
    assert labels_of(folder)[0].box == before
    assert next(stored_regions(folder, 0))[1].box_codes is None


def _without(path: Path, column: str) -> None:
    table = pq.read_table(path)
    pq.write_table(table.drop_columns([column]), path)
