"""All ways to expand a vocabulary in one go, and the step of provenance that says how it was done.

The result is a file like any other: labelling never needs WordNet.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from vildcli import __version__
from vildcli.vocabulary.attributes import add_attributes, flatten
from vildcli.vocabulary.category import Vocabulary
from vildcli.vocabulary.expansion import (
    Kinds,
    LeftOut,
    add_hypernyms,
    add_kinds,
    add_synonyms,
    with_synsets,
)
from vildcli.vocabulary.senses import Meaning
from vildcli.vocabulary.species import SpeciesPlace, add_species
from vildcli.vocabulary.wordnet import WordNet


@dataclass(frozen=True, slots=True)
class Request:
    """What to expand a vocabulary by, in the order in which it is done.

    Attributes:
        species: a list of birds, as `cub200`.
        hyponyms: synsets whose kinds are added.
        depth: how many levels of kinds; None for all.
        hypernyms: whether to give categories parents.
        synonyms: whether to give them the other words of their synsets.
        attributes: sets to put beside the categories.
        flatten: whether to multiply them out.
    """

    species: Vocabulary | None = None
    hyponyms: tuple[str, ...] = ()
    depth: int | None = None
    hypernyms: bool = False
    synonyms: bool = False
    attributes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    flatten: bool = False

    @property
    def needs_wordnet(self) -> bool:
        return bool(self.species or self.hyponyms or self.hypernyms or self.synonyms)

    @property
    def is_empty(self) -> bool:
        return not (self.needs_wordnet or self.attributes or self.flatten)


@dataclass(frozen=True, slots=True)
class Expansion:
    """An expanded vocabulary, and what a person should look at.

    Attributes:
        species: where each species is.
        kinds: by synset, what was added and what was there.
        guessed: what bare names were taken to mean.
        left_out: words of WordNet that did not become synonyms.
    """

    vocabulary: Vocabulary
    species: tuple[SpeciesPlace, ...] = ()
    kinds: Mapping[str, Kinds] = field(default_factory=dict)
    guessed: tuple[Meaning, ...] = ()
    left_out: tuple[LeftOut, ...] = ()


def expand(vocabulary: Vocabulary, request: Request, wordnet: WordNet | None = None) -> Expansion:
    """Expand a vocabulary; a step of provenance says by what, from what, and by which version.

    Args:
        wordnet: needed where `request.needs_wordnet`.

    Raises:
        VocabularyError: an unknown synset, too many joint names, two names alike.
    """
    if wordnet is None:
        assert not request.needs_wordnet, "no WordNet given"
        expansion = Expansion(vocabulary)
    else:
        expansion = _by_wordnet(vocabulary, request, wordnet)
    grown = add_attributes(expansion.vocabulary, request.attributes)
    if request.flatten:
        grown = flatten(grown)
    step = provenance_step(vocabulary, request, wordnet)
    name = " + ".join([vocabulary.name, *_added(request)])
    return replace(
        expansion,
        vocabulary=replace(grown, name=name, provenance=(*vocabulary.provenance, step)),
    )


def provenance_step(
    vocabulary: Vocabulary, request: Request, wordnet: WordNet | None
) -> dict[str, Any]:
    """What decides the result: arguments and fingerprints of what was read; no time, no path."""
    values: dict[str, Any] = {
        "step": "expand",
        "vildcli": __version__,
        "input": _printed(vocabulary),
        "species": _printed(request.species) if request.species else None,
        "hyponyms": list(request.hyponyms),
        "depth": request.depth,
        "hypernyms": request.hypernyms,
        "synonyms": request.synonyms,
        "attributes": {name: _hash(values) for name, values in request.attributes.items()},
        "flatten": request.flatten,
    }
    if wordnet is not None:
        values["wordnet"] = {"version": wordnet.version, "fingerprint": wordnet.fingerprint}
    return {key: value for key, value in values.items() if value}


def _by_wordnet(vocabulary: Vocabulary, request: Request, wordnet: WordNet) -> Expansion:
    places: tuple[SpeciesPlace, ...] = ()
    kinds: dict[str, Kinds] = {}
    guessed: tuple[Meaning, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    if request.species:
        vocabulary, places = add_species(vocabulary, request.species.categories, wordnet)
    for synset in request.hyponyms:
        vocabulary, kinds[synset] = add_kinds(vocabulary, wordnet, synset, request.depth)
    if request.hypernyms or request.synonyms:
        vocabulary, meanings = with_synsets(vocabulary, wordnet)
        guessed = tuple(m for m in meanings if m.category.synset is None)
    if request.hypernyms:
        vocabulary = add_hypernyms(vocabulary, wordnet)
    if request.synonyms:
        vocabulary, left_out = add_synonyms(vocabulary, wordnet)
    return Expansion(vocabulary, places, kinds, guessed, left_out)


def _added(request: Request) -> list[str]:
    parts = [(request.species.name, True)] if request.species else []
    parts += [(synset, True) for synset in request.hyponyms]
    parts += [("hypernyms", request.hypernyms), ("synonyms", request.synonyms)]
    parts += [(name, True) for name in request.attributes]
    return [name for name, given in (*parts, ("flat", request.flatten)) if given]


def _printed(vocabulary: Vocabulary) -> dict[str, str]:
    return {"name": vocabulary.name, "fingerprint": vocabulary.fingerprint()}


def _hash(values: tuple[str, ...]) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:16]
