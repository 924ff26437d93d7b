from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from vildcli.detector.boxes import BOX_CODE_WEIGHTS, decode_boxes
from vildcli.detector.scoring import Fusion, ScoringHead, fuse, named_boxes, score_regions
from vildcli.types import Regions

CATEGORIES, WIDTH, REGIONS = 5, 16, 7
IS_BASE = torch.tensor([True, False, True, True, False])


def units(*shape: int, seed: int = 0) -> Tensor:
    return normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


TEXTS, BACKGROUND = units(CATEGORIES, WIDTH), 3 * units(WIDTH, seed=1)
TEXT_SIDE, IMAGE_SIDE = units(REGIONS, WIDTH, seed=2), units(REGIONS, WIDTH, seed=3)


def head(kind: str = "ensemble", **weight: float) -> ScoringHead:
    return ScoringHead(BACKGROUND, 0.1, 0.05, Fusion(kind, **weight))  # type: ignore[arg-type]


def softmax(logits: np.ndarray) -> np.ndarray:
    e = np.exp(logits - logits.max(-1, keepdims=True))
    return np.asarray(e / e.sum(-1, keepdims=True))


def expected_sides() -> tuple[np.ndarray, np.ndarray]:
    texts, background = TEXTS.double().numpy(), BACKGROUND.double().numpy()
    columns = np.vstack([background / np.linalg.norm(background), texts])
    text = softmax(TEXT_SIDE.double().numpy() @ columns.T / 0.1)[:, 1:]
    return text, softmax(IMAGE_SIDE.double().numpy() @ texts.T / 0.05)


def test_the_sides_are_softmaxes_with_and_without_background() -> None:
    scores = score_regions(TEXT_SIDE, IMAGE_SIDE, TEXTS, IS_BASE, head())
    text, image = expected_sides()
    assert scores.text is not None
    assert scores.image is not None
    np.testing.assert_allclose(scores.text, text, rtol=1e-4)
    np.testing.assert_allclose(scores.image, image, rtol=1e-4)
    assert (scores.text.sum(1) < 1).all()


def test_ensemble__cube_root_of_the_published_product() -> None:
    scores = score_regions(TEXT_SIDE, IMAGE_SIDE, TEXTS, IS_BASE, head())
    text, image = expected_sides()
    # As released: (p_text · p_image · third)^(1/3), third = the side that knows the category.
    third = np.where(IS_BASE.numpy(), text, image)
    np.testing.assert_allclose(scores.fused, np.cbrt(text * image * third), rtol=1e-4)


def test_uniform__one_exponent_for_base_and_novel() -> None:
    scores = score_regions(TEXT_SIDE, IMAGE_SIDE, TEXTS, IS_BASE, head("uniform", base_weight=0.6))
    text, image = expected_sides()
    np.testing.assert_allclose(scores.fused, text**0.6 * image**0.4, rtol=1e-4)


@pytest.mark.parametrize(("kind", "side"), [("text", 0), ("image", 1)])
def test_one_side_is_its_softmax(kind: str, side: int) -> None:
    scores = score_regions(TEXT_SIDE, IMAGE_SIDE, TEXTS, IS_BASE, head(kind))
    np.testing.assert_allclose(scores.fused, expected_sides()[side], rtol=1e-4)
    assert (scores.image if kind == "text" else scores.text) is None


def test_permuting_the_vocabulary_permutes_the_scores() -> None:
    order = torch.tensor([3, 1, 4, 0, 2])
    scores = score_regions(TEXT_SIDE, IMAGE_SIDE, TEXTS, IS_BASE, head()).fused
    shuffled = score_regions(TEXT_SIDE, IMAGE_SIDE, TEXTS[order], IS_BASE[order], head()).fused
    torch.testing.assert_close(shuffled, scores[:, order])


def test_adding_a_category_keeps_the_ratios_of_the_others() -> None:
    more, base = torch.cat([TEXTS, units(1, WIDTH, seed=9)]), torch.cat([IS_BASE, IS_BASE[:1]])
    few = score_regions(TEXT_SIDE, IMAGE_SIDE, TEXTS, IS_BASE, head())
    many = score_regions(TEXT_SIDE, IMAGE_SIDE, more, base, head())
    for before, after in ((few.text, many.text), (few.image, many.image)):
        assert before is not None
        assert after is not None
        ratio = after[:, :CATEGORIES] / before
        torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio))
        assert (ratio < 1).all()


def test_float16_regions_are_scored_in_float32() -> None:
    exact = score_regions(TEXT_SIDE, IMAGE_SIDE, TEXTS, IS_BASE, head()).fused
    rounded = score_regions(TEXT_SIDE.half(), IMAGE_SIDE.half(), TEXTS, IS_BASE, head()).fused
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, exact, rtol=0.05, atol=1e-4)


def test_a_lower_temperature_is_more_certain() -> None:
    heads = [ScoringHead(BACKGROUND, t, t, Fusion("image")) for t in (1.0, 0.1, 0.01)]
    best = [score_regions(None, IMAGE_SIDE, TEXTS, IS_BASE, h).fused.max(1).values for h in heads]
    assert (best[0] < best[1]).all()
    assert (best[1] < best[2]).all()


def test_fuse__an_underflown_probability_is_finite_and_small() -> None:
    text, image = torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0]])
    fused = fuse(text, image, torch.tensor([True, False]), Fusion("ensemble"))
    assert torch.isfinite(fused).all()
    assert fused.max() < 1e-12


def test_objectness__takes_its_share_of_the_score() -> None:
    plain = score_regions(None, IMAGE_SIDE, TEXTS, IS_BASE, head("image")).fused
    objectness = torch.linspace(0.1, 0.9, len(IMAGE_SIDE))
    weighted = head("image", objectness_weight=0.25)
    found = score_regions(None, IMAGE_SIDE, TEXTS, IS_BASE, weighted, objectness)
    expected = plain.numpy() ** 0.75 * objectness.numpy()[:, None] ** 0.25
    np.testing.assert_allclose(found.fused.numpy(), expected, rtol=1e-5)
    assert found.image is not None
    assert torch.equal(found.image, plain)  # the side's own factor is kept as it is


def test_seesaw__a_softmax_of_the_words_times_the_share_of_objects() -> None:
    two = 3 * units(2, WIDTH, seed=4)
    scores = score_regions(
        TEXT_SIDE, None, TEXTS, IS_BASE, ScoringHead(two, 0.1, 0.1, Fusion("text"))
    )
    side = TEXT_SIDE.double().numpy()
    object_share = softmax(side @ two.double().numpy().T)
    words = softmax(side @ TEXTS.double().numpy().T / 0.1)
    np.testing.assert_allclose(scores.fused, words * object_share[:, 1:], rtol=1e-4)
    every = np.concatenate([object_share[:, :1], words * object_share[:, 1:]], 1)
    assert scores.best is not None
    assert scores.best.tolist() == (every.argmax(1) - 1).tolist()


def test_free_background__its_length_counts() -> None:
    free = ScoringHead(BACKGROUND, 0.1, 0.1, Fusion("text"), free_background=True)
    scores = score_regions(TEXT_SIDE, None, TEXTS, IS_BASE, free)
    columns = np.vstack([BACKGROUND.double().numpy(), TEXTS.double().numpy()])
    expected = softmax(TEXT_SIDE.double().numpy() @ columns.T / 0.1)[:, 1:]
    np.testing.assert_allclose(scores.fused, expected, rtol=1e-4)
    unit = score_regions(TEXT_SIDE, None, TEXTS, IS_BASE, head("text"))
    assert not torch.allclose(unit.fused, scores.fused)


def moved_regions() -> tuple[Regions, ScoringHead, Tensor]:
    """Regions of an image of 200 x 100, a head whose names move boxes, and what it moves by."""
    generator = torch.Generator().manual_seed(5)
    corners = torch.rand(REGIONS, 2, generator=generator) * torch.tensor([120.0, 50])
    proposals = torch.cat([corners, corners + 40], 1)
    codes = torch.randn(REGIONS, 4, generator=generator)
    own = decode_boxes(codes, proposals, BOX_CODE_WEIGHTS)
    masks = torch.zeros(REGIONS, 28, 28, dtype=torch.uint8)
    objectness = torch.ones(REGIONS)
    regions = Regions(
        own, proposals, objectness, masks, TEXT_SIDE, None, box_codes=codes, size=(200, 100)
    )
    by_words = torch.randn(4, WIDTH, generator=generator)
    return (
        regions,
        ScoringHead(BACKGROUND, 0.1, 0.1, Fusion("text"), word_boxes=by_words),
        by_words,
    )


def test_named_boxes__follow_the_likeliest_name_and_none_where_it_is_background() -> None:
    regions, semantic, by_words = moved_regions()
    background = BACKGROUND / BACKGROUND.norm()
    sides = torch.stack([*TEXTS, background, (TEXTS[0] + 0.5 * TEXTS[1])])  # 5 is background
    regions = Regions(
        **{
            **{name: getattr(regions, name) for name in Regions.__slots__},
            "text_side": torch.nn.functional.normalize(sides, dim=-1),
        }
    )
    scores = score_regions(regions.text_side, None, TEXTS, IS_BASE, semantic)
    assert scores.best is not None
    assert scores.best.tolist() == [0, 1, 2, 3, 4, -1, 0]
    found = named_boxes(regions, scores, TEXTS, semantic)
    assert torch.equal(found[5], regions.boxes[5])  # bit by bit: the zero vector moves nothing
    for row, word in ((0, 0), (4, 4), (6, 0)):
        # As published: one linear layer over [feature; text], whose text columns B are.
        codes = regions.box_codes[row] + by_words @ TEXTS[word]
        expected = decode_boxes(codes, regions.proposals[row], BOX_CODE_WEIGHTS)
        limit = torch.tensor([200.0, 100, 200, 100])
        torch.testing.assert_close(found[row], expected.clamp(min=0).minimum(limit))
        assert not torch.allclose(found[row], regions.boxes[row])


def test_named_boxes__are_the_regions_own_in_other_systems() -> None:
    regions, semantic, _ = moved_regions()
    plain = head("text")
    scores = score_regions(regions.text_side, None, TEXTS, IS_BASE, plain)
    assert named_boxes(regions, scores, TEXTS, plain) is regions.boxes
    no_names = score_regions(regions.text_side, None, TEXTS[:0], IS_BASE[:0], semantic)
    assert named_boxes(regions, no_names, TEXTS[:0], semantic) is regions.boxes
