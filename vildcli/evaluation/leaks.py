"""What makes a zero-shot number false: weights or proposals that have seen the novel boxes.

No torch. Read from the provenance that a model file carries: `init` (scratch, imagenet, coco, or
the identity of another model), `init_provenance` (that model's own), `proposals` (a sentence, or
the provenance of the model that proposed; where the teacher chose among its boxes, a mapping of
`chosen`, how, and `proposals`, that one's own); `trained_on` in either lists categories by name. Of
a merged run, `merged` has the provenance of each run by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vildcli.evaluation.phrases import listed
from vildcli.vocabulary.category import Category
from vildcli.vocabulary.names import same_things

# ImageNet has names and no boxes; SoCo learns from ImageNet without even the names.
_CHOICE = "The teacher's own choice by "  # how `vildcli teach` begins to say so, then which names
_COCO, _BLANK = "coco", ("scratch", "imagenet", "soco", _CHOICE)

_NESTED = {"init_provenance": "initialisation", "proposals": "proposer"}

# What boxes of COCO train2017 mean for each protocol.
COCO_SEEN = {
    "lvis": "COCO's 80 categories, on COCO train2017, where LVIS val images lie too",
    "coco": "COCO's 80 categories",
    "coco-48-17": "COCO's 80 categories, the 17 novel ones among them",
    "coco-65-15": "COCO's 80 categories, the 15 unseen ones among them",
    "voc": "COCO's 80 categories, all 20 of VOC among them",
    "objects365": "COCO's 80 categories, which are among those of Objects365",
}


def leaks(provenance: Mapping[str, Any], protocol: str) -> list[str]:
    """Sentences on what of a model has seen boxes that the protocol holds back.

    Args:
        provenance: of a model file, or of a run.
        protocol: a key of `PROTOCOLS`.
    """
    seen = f"has seen boxes of {COCO_SEEN[protocol]}"
    return [f"{subject} {seen}." for subject, found in _origins(provenance) if found == _COCO]


def doubts(provenance: Mapping[str, Any]) -> list[str]:
    """Sentences on what of a model may have seen anything: nothing says where it came from."""
    if not provenance:
        return ["Nothing says what the model has seen."]
    return [
        f"Nothing says what {subject[0].lower()}{subject[1:]} has seen."
        for subject, found in _origins(provenance)
        if found not in (_COCO, *_BLANK)
    ]


def known_names(provenance: Mapping[str, Any], of: str = "the model") -> list[str]:
    """Sentences on the names that were known in training, beyond what a text encoder knows.

    A teacher that chooses its own regions (EZSD) may know the names of novel categories; no box of
    them is looked at.
    """
    sentences = []
    for key, name in _NESTED.items():
        found = provenance.get(key)
        chosen = found.get("chosen") if isinstance(found, Mapping) else found
        if isinstance(chosen, str) and chosen.startswith(_CHOICE):
            which = chosen.removeprefix(_CHOICE).split(",")[0]
            sentences.append(f"Known when the regions of {of} were chosen: {which}.")
        if isinstance(found, Mapping):
            sentences += known_names(found, f"the {name} of {of}")
    return sentences


def trained_novel(
    novel: Mapping[int, Category], is_base: Mapping[int, bool], provenance: Mapping[str, Any]
) -> list[str]:
    """Sentences on boxes of novel categories that were trained on.

    Args:
        novel: the protocol's novel categories by id.
        is_base: whether the model saw boxes of a category, by id; those absent are not known.
        provenance: of the model: what it started from and what proposed may have seen more.
    """
    own = [category for id_, category in novel.items() if is_base.get(id_, False)]
    sources = {"The model": own}
    for subject, names in _trained_on(provenance):
        listed_there = [Category(i, name) for i, name in enumerate(names, start=1)]
        same = same_things(list(novel.values()), listed_there)
        sources[subject] = [c for c, rows in zip(novel.values(), same, strict=True) if rows]
    return [
        f"{subject} was trained on boxes of {len(seen)} of the {len(novel)} novel categories: "
        f"{listed([category.name for category in seen])}."
        for subject, seen in sources.items()
        if seen
    ]


def _trained_on(
    provenance: Mapping[str, Any], of: str = "the model"
) -> Iterator[tuple[str, Sequence[str]]]:
    """Every source of weights and proposals that says which categories it was trained on."""
    for name, of_run in _merged(provenance):
        yield from _trained_on(of_run, f"{of} of {name}")
    for key, name in _NESTED.items():
        nested = _proposed(provenance) if key == "proposals" else provenance.get(key)
        if isinstance(nested, Mapping):
            subject = f"the {name} of {of}"
            if names := nested.get("trained_on"):
                yield f"T{subject[1:]}", names
            yield from _trained_on(nested, subject)


def _origins(provenance: Mapping[str, Any], of: str = "the model") -> Iterator[tuple[str, str]]:
    """Every source of weights and proposals, as a subject of a sentence and what it came from."""
    for name, of_run in _merged(provenance):
        yield from _origins(of_run, f"{of} of {name}")
    init, nested = provenance.get("init"), provenance.get("init_provenance")
    if isinstance(nested, Mapping):
        yield from _origins(nested, f"the initialisation of {of}")
    elif init is not None:
        yield f"The initialisation of {of}", str(init).lower()
    proposals = _proposed(provenance)
    if isinstance(proposals, Mapping):
        yield from _origins(proposals, f"the proposer of {of}")
    elif proposals is not None:
        yield f"The proposer of {of}", _origin_of_proposals(str(proposals))


def _merged(provenance: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Of a run that several were merged into, the name of each and what its model has seen."""
    yield from provenance.get("merged", {}).items()


def _proposed(provenance: Mapping[str, Any]) -> Any:
    """What is said of the proposer, whether or not a teacher chose among its boxes."""
    found = provenance.get("proposals")
    return found["proposals"] if isinstance(found, Mapping) and "chosen" in found else found


def _origin_of_proposals(sentence: str) -> str:
    """What a proposals' sentence of `vildcli teach` says of their origin."""
    if sentence.startswith(_CHOICE):  # it has seen base ground truth, to keep clear of it
        return _CHOICE
    if "torchvision" in sentence.lower():
        return _COCO
    last = sentence.rstrip(".").rpartition(" from ")[2]
    return last if last in (_COCO, *_BLANK) else sentence
