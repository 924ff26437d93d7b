"""The words against real CLIP ViT-B/32 vectors of 75 photographs, 20 of them labelled."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from vildcli.text.bank import load_text_bank
from vildcli.text.context import (
    NEAR_SYNONYM_COSINE,
    EmbeddedCategories,
    ScoringBank,
    combine_scoring_bank,
)
from vildcli.vocabulary.category import Category, Vocabulary
from vildcli.vocabulary.files import load_vocabulary

SHARED = Path(os.environ.get("VILDCLI_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))
BANKS = SHARED / "clip_text_banks"
PHOTOS = SHARED / "images" / "photos75"

pytestmark = pytest.mark.skipif(
    not BANKS.is_dir(), reason=f"no shared data at {SHARED}; set VILDCLI_SHARED_DATA"
)


@pytest.fixture(scope="module")
def lvis() -> EmbeddedCategories:
    categories = load_vocabulary("lvis-v1").categories
    bank = load_text_bank(BANKS / "lvis_v1_clip_a+cname.npy", [c.name for c in categories])
    return EmbeddedCategories(categories, bank.embeddings)


@pytest.fixture(scope="module")
def labels() -> dict[int, list[str]]:
    written = json.loads((PHOTOS / "salient_lvis_labels.json").read_text())
    return {int(name.removeprefix("image_").removesuffix(".jpg")): v for name, v in written.items()}


@pytest.fixture(scope="module")
def photos() -> torch.Tensor:
    raw = np.load(PHOTOS / "clip_vitb32_image_embeddings.npy", allow_pickle=False)
    return normalize(torch.from_numpy(raw), dim=-1)


def user_bank(lvis: EmbeddedCategories, names: list[str], in_context: bool) -> ScoringBank:
    rows = [row for row, c in enumerate(lvis.categories) if c.name in names]
    assert len(rows) == len(names)
    return combine_scoring_bank(
        Vocabulary("typed", tuple(lvis.categories[row] for row in rows)),
        lvis.embeddings[rows],
        base=(),
        temperature=0.01,
        context=lvis if in_context else None,
    )


def scored(photos: torch.Tensor, bank: ScoringBank) -> torch.Tensor:
    """Softmax in the bank's context, the user's columns only, [photos, C]."""
    logits = photos @ bank.text_embeddings.T / bank.temperature
    return logits.softmax(dim=-1)[:, : len(bank.category_ids)]


def test_lvis_names_the_labelled_photographs(lvis, labels, photos):
    best = (photos @ lvis.embeddings.T).argmax(dim=1)
    right = sum(lvis.categories[best[row]].name in names for row, names in labels.items())
    assert len(labels) == 20
    assert right >= 18


def test_shuffled_names_are_chance(lvis, labels, photos):
    order = torch.randperm(len(lvis.categories), generator=torch.Generator().manual_seed(0))
    best = (photos @ lvis.embeddings[order].T).argmax(dim=1)
    right = sum(lvis.categories[best[row]].name in names for row, names in labels.items())
    assert right <= 1


def triples(labels: dict[int, list[str]]) -> list[tuple[str, ...]]:
    names = sorted({name for said in labels.values() for name in said})
    return list(itertools.combinations(names, 3))[::40]


def best_of_absent_names(lvis, labels, photos, *, in_context: bool) -> torch.Tensor:
    """The best score of three typed names on every labelled photograph that shows none of them."""
    found = []
    for names in triples(labels):
        shows_none = [row for row, said in labels.items() if not set(said) & set(names)]
        bank = user_bank(lvis, list(names), in_context)
        found.append(scored(photos[shows_none], bank).amax(dim=1))
    return torch.cat(found)


def test_three_names_without_a_context_score_high_on_everything(lvis, labels, photos):
    wrong = best_of_absent_names(lvis, labels, photos, in_context=False)
    assert 0.8 < (wrong > 0.5).float().mean() < 0.95


def test_the_context_keeps_wrong_names_low_and_right_ones_above_them(lvis, labels, photos):
    wrong = best_of_absent_names(lvis, labels, photos, in_context=True)
    assert (wrong > 0.5).float().mean() <= 0.001
    right = torch.stack(
        [
            scored(photos[row : row + 1], user_bank(lvis, said, in_context=True)).max()
            for row, said in labels.items()
        ]
    )
    auroc = (right[:, None] > wrong).float().mean()
    assert auroc > 0.99


def test_a_name_of_the_context_changes_no_other_score(lvis, photos):
    few = scored(photos, user_bank(lvis, ["sheep", "banana"], in_context=True))
    more = scored(photos, user_bank(lvis, ["sheep", "banana", "pony"], in_context=True))
    torch.testing.assert_close(few, more[:, [0, 2]], atol=1e-6, rtol=0)  # LVIS lists pony between


def test_the_near_synonym_limit_keeps_categories_apart_and_finds_spellings(lvis):
    between = torch.triu(lvis.embeddings @ lvis.embeddings.T, diagonal=1)
    assert between.max() < NEAR_SYNONYM_COSINE
    objects = load_vocabulary("objects365").categories
    bank = load_text_bank(BANKS / "o365_clip_a+cnamefix.npy", [c.name for c in objects])
    typed = ["Ice cream", "Chopsticks", "Wine Glass", "Horse"]
    rows = [bank.names.index(name) for name in typed]
    found = combine_scoring_bank(
        Vocabulary("typed", tuple(Category(i, name) for i, name in enumerate(typed, start=1))),
        bank.embeddings[rows],
        base=(),
        temperature=0.01,
        context=lvis,
    )
    assert found.dropped == ("chopstick", "horse", "icecream", "wineglass")


def test_coco_s_bank_loads_in_the_order_of_its_ids():
    names = [c.name for c in load_vocabulary("coco").categories]
    bank = load_text_bank(BANKS / "coco_clip_a+cname.npy", names)
    lvis_names = [c.name for c in load_vocabulary("lvis-v1").categories]
    lvis_bank = load_text_bank(BANKS / "lvis_v1_clip_a+cname.npy", lvis_names)
    cosine = bank.embeddings[names.index("zebra")] @ lvis_bank.embeddings[lvis_names.index("zebra")]
    assert cosine > 0.999
