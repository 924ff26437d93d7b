"""`vildcli expand`: build and expand vocabularies."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vildcli import console
from vildcli.errors import NothingToDoError, RunError, VocabularyError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vildcli.vocabulary.category import Vocabulary
    from vildcli.vocabulary.expand import Expansion
    from vildcli.vocabulary.senses import Meaning
    from vildcli.vocabulary.wordnet import Sense

EXAMPLE = """\
\b
Examples:
  vildcli expand lvis-v1 --species cub200 --attributes colours --out birds.yaml
  vildcli expand coco --hyponyms dog.n.01 --depth 2 --synonyms --out dogs.yaml
  vildcli expand fruit.txt --attributes colours --flatten --out fruit.csv
"""
LARGEST_YAML = 100_000  # categories: more of it takes long to read back


@click.command(epilog=EXAMPLE)
@click.argument("vocab")
@click.option(
    "--attributes",
    metavar="A",
    multiple=True,
    help="colours, or a file of attribute sets; may be given several times.",
)
@click.option("--synonyms", is_flag=True, help="Add WordNet's other words for each category.")
@click.option(
    "--hyponyms",
    metavar="SYNSET",
    multiple=True,
    help="Add the kinds of a thing, such as bird.n.01; may be given several times.",
)
@click.option("--depth", type=click.IntRange(min=1), help="Levels of kinds to add.  [default: all]")
@click.option(
    "--hypernyms", is_flag=True, help="Give categories parents that labels can be rolled up to."
)
@click.option(
    "--species", metavar="S", help="Add bird species below bird: cub200, or a file of names."
)
@click.option(
    "--flatten", is_flag=True, help='Write names times attributes ("red apple"), for other tools.'
)
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="The vocabulary to write: .yaml, .json or .csv.",
)
@click.option("--force", is_flag=True, help="Replace an existing file.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def command(
    vocab: str,
    attributes: tuple[str, ...],
    synonyms: bool,
    hyponyms: tuple[str, ...],
    depth: int | None,
    hypernyms: bool,
    species: str | None,
    flatten: bool,
    out: Path,
    force: bool,
    as_json: bool,
) -> None:
    """Expand VOCAB, a shipped name or a file, into a vocabulary file that needs nothing else.

    Attributes stay beside the names: p names and q attributes are scored apart and multiplied, so
    they cost p + q. Everything else asks WordNet (apt-get install wordnet-base, or vildcli fetch
    wordnet); what it answered is written into the file.
    """
    if depth is not None and not hyponyms:
        raise click.UsageError("--depth is for --hyponyms.")
    from vildcli.vocabulary.expand import Request, expand
    from vildcli.vocabulary.files import load_attributes, load_vocabulary, save_vocabulary
    from vildcli.vocabulary.wordnet import load_wordnet
    from vildcli.vocabulary.writers import check_suffix

    check_suffix(out)
    if out.exists() and not force:
        raise RunError(f"{out} is there already.", hint="Choose another --out, or --force.")
    vocabulary = load_vocabulary(vocab)
    request = Request(
        species=load_vocabulary(species) if species else None,
        hyponyms=hyponyms,
        depth=depth,
        hypernyms=hypernyms,
        synonyms=synonyms,
        attributes=_merged([load_attributes(reference) for reference in attributes]),
        flatten=flatten,
    )
    if request.is_empty:
        raise NothingToDoError(
            f"Nothing is asked to be added to {vocab}.",
            hint="Choose from --attributes, --synonyms, --hyponyms, --hypernyms, --species.",
        )
    expansion = expand(vocabulary, request, load_wordnet() if request.needs_wordnet else None)
    _refuse_slow(expansion.vocabulary, out)
    save_vocabulary(expansion.vocabulary, out)
    _show(expansion)
    _say_size(len(vocabulary), expansion.vocabulary)
    console.say(f"Wrote {out}")
    console.say(f"Next: {console.program()} vocab lint {out}")
    if as_json:
        click.echo(json.dumps({"out": str(out.absolute()), **_report(expansion)}))


def _merged(files: list[dict[str, tuple[str, ...]]]) -> dict[str, tuple[str, ...]]:
    merged: dict[str, tuple[str, ...]] = {}
    for sets in files:
        for name, values in sets.items():
            merged[name] = tuple(dict.fromkeys((*merged.get(name, ()), *values)))
    return merged


def _refuse_slow(vocabulary: Vocabulary, out: Path) -> None:
    if out.suffix in (".yaml", ".yml") and len(vocabulary) > LARGEST_YAML:
        raise VocabularyError(
            f"{len(vocabulary):,} categories are too many for YAML, which is slow to read back.",
            hint=f"--out {out.with_suffix('.json').name}",
        )


def _show(expansion: Expansion) -> None:
    """What a person should look at: where species went, and what names were taken to mean."""
    if expansion.species:
        _show_species(expansion)
    if ambiguous := [m for m in expansion.guessed if m.sense and m.others]:
        console.show_table(
            "Names of several senses; to choose another than was taken, write synset: into VOCAB",
            ("category", "taken", "or", "taken means"),
            [
                (m.category.name, m.sense.synset, _listed(m.others), m.sense.definition)
                for m in ambiguous
                if m.sense
            ],
        )
    if unknown := [m.category.name for m in expansion.guessed if not m.sense]:
        console.say(f"WordNet does not know {len(unknown)} names: {', '.join(unknown)}")
    for synset, kinds in expansion.kinds.items():
        there = f"; there already: {', '.join(kinds.already_there)}" if kinds.already_there else ""
        console.say(f"{synset}: {len(kinds.added)} added{there}")
    if expansion.left_out:
        console.say(
            f"{len(expansion.left_out)} words that name or mean something else too were left out"
            " (--json lists them)"
        )


def _show_species(expansion: Expansion) -> None:
    below = {c.name: c.parent or "-" for c in expansion.vocabulary.categories}
    console.show_table(
        "Species",
        ("species", "found by", "WordNet", "below"),
        [
            (
                place.match.category.name,
                place.match.how,
                place.match.sense.synset if place.match.sense else "-",
                f"{below[place.name]}, there already as {place.name}"
                if place.was_there
                else below.get(place.name, "-"),
            )
            for place in expansion.species
        ],
    )
    counts = Counter(place.match.how for place in expansion.species)
    missing = counts.pop("nothing", 0)
    by = ", ".join([*(f"{n} by {how}" for how, n in counts.most_common()), f"{missing} not found"])
    console.say(f"{len(expansion.species)} species: {by}")


def _say_size(before: int, vocabulary: Vocabulary) -> None:
    from vildcli.vocabulary.attributes import count_joint_names

    parts = [f"{len(vocabulary):,} categories ({before:,} before)"]
    if vocabulary.parents:
        parts.append(f"{len(vocabulary.parents):,} parents to roll up to")
    if vocabulary.attributes:
        sets = [f"{len(values):,} {name}" for name, values in vocabulary.attributes.items()]
        parts.append(f"x {' x '.join(sets)} = {count_joint_names(vocabulary):,} joint names")
    console.say(", ".join(parts))


def _report(expansion: Expansion) -> dict[str, Any]:
    """The object that --json prints."""
    vocabulary = expansion.vocabulary
    return {
        "name": vocabulary.name,
        "categories": len(vocabulary),
        "parents": len(vocabulary.parents),
        "attributes": {name: len(values) for name, values in vocabulary.attributes.items()},
        "species": [
            {
                "species": place.match.category.name,
                "found_by": place.match.how,
                "synset": place.match.sense.synset if place.match.sense else None,
                "category": place.name,
                "was_there": place.was_there,
            }
            for place in expansion.species
        ],
        "hyponyms": {synset: asdict(kinds) for synset, kinds in expansion.kinds.items()},
        "ambiguous": [_meaning(m) for m in expansion.guessed if m.others],
        "unknown": [m.category.name for m in expansion.guessed if not m.sense],
        "left_out": [asdict(word) for word in expansion.left_out],
    }


def _meaning(meaning: Meaning) -> dict[str, Any]:
    first, *others = (
        {"synset": sense.synset, "definition": sense.definition}
        for sense in (meaning.sense, *meaning.others)
        if sense
    )
    return {"category": meaning.category.name, **first, "others": others}


def _listed(senses: Sequence[Sense]) -> str:
    return ", ".join(sense.synset for sense in senses)
