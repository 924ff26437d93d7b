from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from vildcli.detector.scoring import Fusion, ScoringHead
from vildcli.errors import DataError, RunError
from vildcli.labelling.plan import make_plan, read_plan, write_plan
from vildcli.labelling.records import write_part
from vildcli.labelling.search import (
    FoundRegion,
    find_like,
    find_region,
    region_masks,
    search_run,
)
from vildcli.labelling.sources import FoundImage
from vildcli.runs import open_run
from vildcli.text.bank import load_text_bank
from vildcli.vocabulary.files import load_vocabulary

WIDTH, IMAGES, REGIONS, UNIT = 12, 7, 30, 3
SHARED = Path(os.environ.get("VILDCLI_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))


def write_run(
    run: Path,
    rows: Sequence[dict[str, Any]],
    paths: Sequence[tuple[str, str]],
    unit_size: int = UNIT,
) -> Path:
    """A labelling run that holds these regions, `unit_size` images a unit."""
    sources = {source: str(run.parent / source) for source, _ in paths}
    open_run(run, kind="labelling", settings={"a": 1}, arguments={"sources": sources})
    plan = make_plan([FoundImage(source, path, 1, 1) for source, path in paths])
    plan = tuple(replace(image, unit=place // unit_size) for place, image in enumerate(plan))
    write_plan(run, plan)
    for unit in {image.unit for image in plan}:
        ids = {image.image_id for image in plan if image.unit == unit}
        write_part(run, "regions", unit, [row for row in rows if row["image_id"] in ids])
        write_part(run, "labels", unit, [])
        write_part(run, "images", unit, [])
    return run


def some_paths(count: int = IMAGES) -> list[tuple[str, str]]:
    return [("photos", f"deep/{i}.jpg") for i in range(count)]


def row(image_id: int, region: int, box: Sequence[float], **values: Any) -> dict[str, Any]:
    usual = {"objectness": 0.9, "mask": bytes([image_id]) * 783 + bytes([region])}
    given = {"image_id": image_id, "region": region, "proposal": box, "box": box}
    return {**given, **usual, **values}


def random_rows(seed: int = 0) -> list[dict[str, Any]]:
    generator = np.random.default_rng(seed)
    rows = []
    for image_id in range(1, IMAGES + 1):
        for region in range(0 if image_id == 5 else REGIONS):
            corner = generator.uniform(0, 60, 2)
            box = [*corner, *(corner + generator.uniform(8, 60, 2))]
            embedding = generator.normal(size=WIDTH)
            half = (embedding / np.linalg.norm(embedding)).astype(np.float16)
            objectness = float(generator.uniform(0, 1))
            rows.append(row(image_id, region, box, objectness=objectness, image_side=half))
    return rows


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", random_rows(), some_paths())


def queries(count: int = 3) -> Tensor:
    return normalize(torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(1)), dim=-1)


def overlap(a: Sequence[float], b: Sequence[float]) -> float:
    sides = [min(a[i + 2], b[i + 2]) - max(a[i], b[i]) for i in (0, 1)]
    inside = max(sides[0], 0) * max(sides[1], 0)
    areas = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
    return inside / (sum(areas) - inside)


def by_hand(
    scores: np.ndarray, rows: Sequence[dict[str, Any]], objectness: float = 0.0
) -> list[tuple[int, int]]:
    """Image and region of what remains of overlapping regions, best first."""
    kept: list[dict[str, Any]] = []
    for place in np.argsort(-scores, kind="stable"):
        one = rows[place]
        x1, y1, x2, y2 = np.float32(one["box"])
        if one["objectness"] < objectness or (x2 - x1) * (y2 - y1) <= 220:
            continue
        same = [k for k in kept if k["image_id"] == one["image_id"]]
        if all(overlap(one["box"], k["box"]) <= 0.6 for k in same):
            kept.append(one)
    return [(k["image_id"], k["region"]) for k in kept]


def keys(found: Sequence[FoundRegion]) -> list[tuple[int, int]]:
    return [(region.image_id, region.region) for region in found]


@pytest.mark.parametrize("top", [1, 5, 40, 1000])
@pytest.mark.parametrize("objectness", [0.0, 0.5])
def test_search_run__finds_what_a_full_search_finds(run: Path, top: int, objectness: float) -> None:
    rows = random_rows()
    side = normalize(torch.tensor(np.stack([r["image_side"] for r in rows])).float(), dim=-1)
    scores = (side @ queries().T).double().numpy()
    found = search_run(run, queries(), top=top, objectness=objectness)
    for column, regions in enumerate(found):
        expected = by_hand(scores[:, column], rows, objectness)
        assert len(expected) > 40
        assert keys(regions) == expected[:top]
        for region in regions:
            place = next(
                i for i, r in enumerate(rows) if (r["image_id"], r["region"]) == keys([region])[0]
            )
            assert region.score == pytest.approx(scores[place, column], abs=1e-6)
            assert region.box == pytest.approx(rows[place]["box"], abs=1e-4)
            assert region.objectness == pytest.approx(rows[place]["objectness"])


def test_search_run__shares_of_the_queries_at_the_sides_temperature(tmp_path: Path) -> None:
    head = ScoringHead(None, temperature=0.5, image_temperature=0.05, fusion=Fusion("ensemble"))
    for name, temperature in (("image_side", 0.05), ("text_side", 0.5)):
        rows = [{**r, name: r["image_side"]} for r in random_rows()]
        if name == "text_side":
            rows = [{k: v for k, v in r.items() if k != "image_side"} for r in rows]
        run = write_run(tmp_path / name, rows, some_paths())
        side = normalize(torch.tensor(np.stack([r[name] for r in rows])).float(), dim=-1)
        shares = (side @ queries().T / temperature).softmax(-1).double().numpy()
        for column, regions in enumerate(search_run(run, queries(), top=9, head=head)):
            assert keys(regions) == by_hand(shares[:, column], rows)[:9]


def test_search_run__prefers_the_image_side(tmp_path: Path) -> None:
    texts = np.roll(np.stack([r["image_side"] for r in random_rows()]), 7, axis=0)
    both = [{**r, "text_side": t} for r, t in zip(random_rows(), texts, strict=True)]
    one = write_run(tmp_path / "one", random_rows(), some_paths())
    assert search_run(write_run(tmp_path / "both", both, some_paths()), queries()) == search_run(
        one, queries()
    )


def test_search_run__needs_embeddings(tmp_path: Path) -> None:
    rows = [row(1, 0, [0, 0, 50, 50])]
    run = write_run(tmp_path / "run", rows, some_paths(1))
    with pytest.raises(RunError) as error:
        search_run(run, queries())
    assert str(error.value) == f"{run} kept no region embeddings."
    assert error.value.hint == "Run detect with --keep-regions."


def test_search_run__looks_behind_many_that_overlap(tmp_path: Path) -> None:
    line = np.linspace(1, 0.5, 200)
    rows = [row(1, i, [0, 0, 50, 50], image_side=unit(cosine)) for i, cosine in enumerate(line)]
    rows.append(row(1, 200, [100, 0, 150, 50], image_side=unit(0.2)))
    run = write_run(tmp_path / "run", rows, some_paths(1))
    (found,) = search_run(run, torch.eye(WIDTH)[:1], top=2)
    assert keys(found) == [(1, 0), (1, 200)]


def unit(cosine: float) -> np.ndarray:
    """A unit vector with that cosine to the first axis."""
    return np.array([cosine, np.sqrt(1 - cosine**2), *[0] * (WIDTH - 2)], np.float16)


def test_search_run__tells_of_each_unit(run: Path) -> None:
    told: list[int] = []
    search_run(run, queries(), advance=told.append)
    assert told == [1, 1, 1]


BOX = (10.0, 10.0, 40.0, 40.0)


@pytest.mark.parametrize("path", ["deep/1.jpg", "photos/deep/1.jpg", "{folder}/photos/deep/1.jpg"])
def test_find_region__the_one_that_overlaps_most(run: Path, path: str) -> None:
    like = find_region(run, path.format(folder=run.parent), BOX)
    of_image = [r for r in random_rows() if r["image_id"] == 2]
    best = max(of_image, key=lambda r: overlap(r["box"], BOX))
    assert (like.found.image_id, like.found.region) == (2, best["region"])
    assert like.overlap == pytest.approx(overlap(best["box"], BOX), abs=1e-5)
    assert torch.equal(like.embedding, torch.tensor(best["image_side"]).float())


def test_find_region__nothing_there(run: Path) -> None:
    for path, box, message in (
        ("deep/9.jpg", BOX, f"{run} has no image deep/9.jpg."),
        ("deep/1.jpg", (900.0, 0.0, 950.0, 9.0), f"{run} has no region of deep/1.jpg there."),
        ("deep/4.jpg", BOX, f"{run} has no region of deep/4.jpg there."),
    ):
        with pytest.raises(DataError) as error:
            find_region(run, path, box)
        assert str(error.value) == message
    (run / "images" / "000000.parquet").unlink()  # a unit that is not done
    with pytest.raises(DataError, match="has no region of"):
        find_region(run, "deep/1.jpg", BOX)


def test_find_region__a_path_in_two_sources(tmp_path: Path) -> None:
    paths = [("one", "a.jpg"), ("two", "a.jpg")]
    rows = [row(i, 0, BOX, image_side=np.eye(WIDTH)[i].astype(np.float16)) for i in (1, 2)]
    run = write_run(tmp_path / "run", rows, paths)
    with pytest.raises(DataError) as error:
        find_region(run, "a.jpg", BOX)
    assert str(error.value) == f"{run} has 2 images called a.jpg."
    assert error.value.hint == "Put its source before it: one/a.jpg"
    assert find_region(run, "two/a.jpg", BOX).found.image_id == 2


def test_find_like__leaves_itself_and_its_overlaps_out(run: Path) -> None:
    like = find_region(run, "deep/1.jpg", BOX)
    rows = random_rows()
    side = normalize(torch.tensor(np.stack([r["image_side"] for r in rows])).float(), dim=-1)
    scores = (side @ normalize(like.embedding, dim=-1)).double().numpy()
    expected = by_hand(scores, rows)
    assert expected[0] == (2, like.found.region)
    assert keys(find_like(run, like, top=10)) == expected[1:11]
    surer = by_hand(scores, rows, 0.5)
    assert (
        keys(find_like(run, like, top=5, objectness=0.5))
        == [key for key in surer if key != expected[0]][:5]
    )


def test_region_masks(run: Path) -> None:
    (found,) = search_run(run, queries(1), top=12)
    masks = region_masks(run, read_plan(run), found)
    assert set(masks) == set(keys(found))
    for (image_id, region), mask in masks.items():
        assert mask.shape == (28, 28)
        assert (mask[0, 0], mask[-1, -1]) == (image_id, region)


def test_real_embeddings__a_name_finds_its_photograph(tmp_path: Path) -> None:
    """CLIP's own image embeddings of 75 photographs, each one region, and its texts."""
    folder = SHARED / "images" / "photos75"
    if not folder.exists():
        pytest.skip(f"no photographs in {folder}")
    embeddings = np.load(folder / "clip_vitb32_image_embeddings.npy", allow_pickle=False)
    said = json.loads((folder / "salient_lvis_labels.json").read_text())
    names = [said.get(f"image_{i}.jpg", []) for i in range(len(embeddings))]
    units = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    rows = [
        row(i, 0, [0, 0, 300, 200], image_side=unit.astype(np.float16))
        for i, unit in enumerate(units, start=1)
    ]
    run = write_run(tmp_path / "run", rows, some_paths(len(rows)), unit_size=16)
    lvis = [category.name for category in load_vocabulary("lvis-v1").categories]
    texts = load_text_bank(SHARED / "clip_text_banks" / "lvis_v1_clip_a+cname.npy", lvis)
    wanted = sorted({name for image in names for name in image})
    queries = texts.embeddings[[lvis.index(name) for name in wanted]]
    found = search_run(run, queries, top=1)
    hits = [
        name in names[regions[0].image_id - 1] for name, regions in zip(wanted, found, strict=True)
    ]
    assert len(hits) >= 15
    assert np.mean(hits) >= 0.8, list(zip(wanted, hits, strict=True))
