from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from vildcli.evaluation.leaks import COCO_SEEN, doubts, known_names, leaks, trained_novel
from vildcli.evaluation.protocols import PROTOCOLS
from vildcli.teacher.chosen_regions import RegionChoice
from vildcli.vocabulary.category import Category

# The sentences of `vildcli teach`.
TORCHVISION = (
    "The first stage of torchvision's Mask R-CNN, which has seen boxes of all 80 categories of "
    "COCO train2017."
)
FIRST_STAGE = "The first stage of vild-text 3fa9, trained on 866 base categories from {}."
FILE = "The boxes of boxes.json; what made them is not known."


def test_coco_seen__speaks_of_every_protocol() -> None:
    assert COCO_SEEN.keys() == PROTOCOLS.keys()


@pytest.mark.parametrize(
    "provenance",
    [
        {"init": "scratch"},
        {"init": "imagenet", "init_file": "resnet50.pth", "init_unread": ["fc.weight"]},
        {"init": "scratch", "proposals": FIRST_STAGE.format("scratch")},
        {"init": "scratch", "proposals": {"init": "imagenet"}},
        {"init": "3fa9", "init_system": "vild-text", "init_provenance": {"init": "scratch"}},
    ],
)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_leaks__of_clean_models_there_are_none(provenance: dict[str, Any], protocol: str) -> None:
    assert leaks(provenance, protocol) == []
    assert doubts(provenance) == []


def test_leaks__coco_weights() -> None:
    assert leaks({"init": "coco"}, "coco-48-17") == [
        "The initialisation of the model has seen boxes of COCO's 80 categories, the 17 novel ones "
        "among them."
    ]
    assert leaks({"init": "coco"}, "lvis") == [
        "The initialisation of the model has seen boxes of COCO's 80 categories, on COCO "
        "train2017, where LVIS val images lie too."
    ]


@pytest.mark.parametrize(
    "proposals", [TORCHVISION, "torchvision maskrcnn_resnet50_fpn.pth", FIRST_STAGE.format("coco")]
)
def test_leaks__coco_proposals(proposals: str) -> None:
    assert leaks({"init": "scratch", "proposals": proposals}, "coco-65-15") == [
        "The proposer of the model has seen boxes of COCO's 80 categories, the 15 unseen ones "
        "among them."
    ]


def test_leaks__at_any_depth() -> None:
    source = {"init": "imagenet", "proposals": {"init": "coco"}}
    middle = {"init": "77aa", "init_provenance": source}
    found = leaks({"init": "3fa9", "init_provenance": middle, "proposals": TORCHVISION}, "coco")
    assert found == [
        "The initialisation of the proposer of the initialisation of the initialisation of the "
        "model has seen boxes of COCO's 80 categories.",
        "The proposer of the model has seen boxes of COCO's 80 categories.",
    ]


@pytest.mark.parametrize(
    ("provenance", "expected"),
    [
        ({}, "Nothing says what the model has seen."),
        (
            {"init": "3fa9", "init_system": "vild-text"},
            "Nothing says what the initialisation of the model has seen.",
        ),
        (
            {"init": "scratch", "proposals": FILE},
            "Nothing says what the proposer of the model has seen.",
        ),
        (
            {"init": "scratch", "proposals": FIRST_STAGE.format("3fa9")},
            "Nothing says what the proposer of the model has seen.",
        ),
        ({"proposals": "3fa9"}, "Nothing says what the proposer of the model has seen."),
    ],
)
def test_doubts__what_is_not_known_is_no_leak_and_no_proof(
    provenance: dict[str, Any], expected: str
) -> None:
    assert doubts(provenance) == [expected]
    assert leaks(provenance, "lvis") == []


NOVEL = {i: Category(i, f"c{i}") for i in range(1, 9)}


def test_trained_novel__names_what_was_seen() -> None:
    assert trained_novel(NOVEL, {1: False, 20: True}, {"init": "scratch"}) == []
    assert trained_novel(NOVEL, {2: True, 3: True, 4: False}, {}) == [
        "The model was trained on boxes of 2 of the 8 novel categories: c2, c3."
    ]
    assert trained_novel(NOVEL, dict.fromkeys(NOVEL, True), {}) == [
        "The model was trained on boxes of 8 of the 8 novel categories: c1, c2, c3, c4, c5 and 3 "
        "more."
    ]


def test_trained_novel__by_what_proposed_or_was_started_from() -> None:
    proposer = {"model": "3fa9", "trained_on": ["c1", "c7", "person"], "init": "scratch"}
    assert trained_novel(NOVEL, {}, {"init": "scratch", "proposals": proposer}) == [
        "The proposer of the model was trained on boxes of 2 of the 8 novel categories: c1, c7."
    ]
    start = {"init": "scratch", "proposals": proposer, "trained_on": ["person"]}
    assert trained_novel(NOVEL, {}, {"init": "77aa", "init_provenance": start}) == [
        "The proposer of the initialisation of the model was trained on boxes of 2 of the 8 novel "
        "categories: c1, c7."
    ]


def test_leaks__of_a_released_detpro_there_are_none() -> None:
    """SoCo saw ImageNet, without names."""
    provenance = {"release": "DetPro (ViLD* or DetPro)", "init": "SoCo"}
    assert leaks(provenance, "lvis") == doubts(provenance) == []


def test_known_names__of_a_teacher_that_chooses_its_regions() -> None:
    chosen = "The teacher's own choice by 80 names (all), apart from base ground truth."
    provenance = {"init": "imagenet", "proposals": chosen}
    assert doubts(provenance) == leaks(provenance, "coco-48-17") == []
    assert known_names(provenance) == [
        "Known when the regions of the model were chosen: 80 names (all)."
    ]
    on = {"init": "3fa9", "init_provenance": provenance, "proposals": {"init": "scratch"}}
    assert known_names(on) == [
        "Known when the regions of the initialisation of the model were chosen: 80 names (all)."
    ]
    assert known_names({"init": "scratch", "proposals": FILE}) == []


def test_a_choice_among_boxes__tells_of_the_proposer_too() -> None:
    chosen = "The teacher's own choice by 80 names (all), apart from base ground truth."
    said = ["Known when the regions of the model were chosen: 80 names (all)."]
    torchvision = "The first stage of torchvision's Mask R-CNN, which has seen boxes."
    provenance = {"init": "scratch", "proposals": {"chosen": chosen, "proposals": torchvision}}
    assert known_names(provenance) == said
    assert leaks(provenance, "coco-48-17") == [
        "The proposer of the model has seen boxes of COCO's 80 categories, the 17 novel ones among "
        "them."
    ]
    model = {"init": "scratch", "trained_on": ["c1"]}
    provenance["proposals"] = {"chosen": chosen, "proposals": model}
    assert known_names(provenance) == said
    assert leaks(provenance, "coco-48-17") == doubts(provenance) == []
    assert trained_novel(NOVEL, {}, provenance) == [
        "The proposer of the model was trained on boxes of 1 of the 8 novel categories: c1."
    ]
    provenance["proposals"] = {"chosen": chosen, "proposals": FILE}
    assert doubts(provenance) == ["Nothing says what the proposer of the model has seen."]


def test_known_names__are_said_as_teach_says_them() -> None:

    names = SimpleNamespace(categories=(1, 2), which="base")
    choice = SimpleNamespace(names=names, among=None)
    said = RegionChoice.provenance.fget(choice)
    assert known_names({"proposals": said}) == [
        "Known when the regions of the model were chosen: 2 names (base)."
    ]
