"""`vildcli vocab`: look at vocabularies."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vildcli import console
from vildcli.errors import MissingDependencyError

if TYPE_CHECKING:
    from collections.abc import Callable

    from vildcli.vocabulary.category import Vocabulary
    from vildcli.vocabulary.lint import Finding
    from vildcli.vocabulary.tree import Branch
    from vildcli.vocabulary.wordnet import WordNet

EXAMPLE = """\
\b
Examples:
  vildcli vocab show lvis-v1 --hypernyms --depth 2
  vildcli vocab lint mine.yaml
  vildcli vocab diff coco mine.yaml
"""
_json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object on stdout."
)


@click.group(epilog=EXAMPLE)
def command() -> None:
    """Look at vocabularies: shipped ones by name, others as files."""


@command.command(
    short_help="Counts, and the categories as a tree of parents.",
    epilog="\b\nExample:\n  vildcli vocab show lvis-v1 --hypernyms --depth 2",
)
@click.argument("vocabs", metavar="VOCAB...", nargs=-1, required=True)
@click.option(
    "--hypernyms", is_flag=True, help="Arrange by WordNet's wider terms, as expand would."
)
@click.option("--depth", type=click.IntRange(min=1), help="Levels to show.  [default: all]")
@_json_option
def show(vocabs: tuple[str, ...], hypernyms: bool, depth: int | None, as_json: bool) -> None:
    """Show what vocabularies hold: counts, and their categories as a tree of parents."""
    from vildcli.vocabulary.expansion import add_hypernyms, with_synsets
    from vildcli.vocabulary.files import load_vocabulary
    from vildcli.vocabulary.wordnet import load_wordnet

    vocabularies = [load_vocabulary(reference) for reference in vocabs]
    if hypernyms:
        wordnet = load_wordnet()
        vocabularies = [add_hypernyms(with_synsets(v, wordnet)[0], wordnet) for v in vocabularies]
    console.show_table(
        "Vocabularies",
        ("name", "categories", "synonyms", "synsets", "r/c/f", "base/novel", "parents",
         "attributes", "negatives"),
        [list(_counts(v).values()) for v in vocabularies],
    )  # fmt: skip
    trees = [_shown_branches(vocabulary, depth) for vocabulary in vocabularies]
    for vocabulary, tree in zip(vocabularies, trees, strict=True):
        _show_tree(vocabulary, tree)
    if as_json:
        found = zip(vocabularies, trees, strict=True)
        click.echo(json.dumps({"vocabularies": [_as_json(v, tree) for v, tree in found]}))


@command.command(
    short_help="What is wrong with a vocabulary.",
    epilog="\b\nExamples:\n"
    "  vildcli vocab lint mine.yaml\n"
    "  vildcli vocab lint lvis-v1 --text-encoder ViT-B-32:openai --prompts vild-63",
)
@click.argument("vocabs", metavar="VOCAB...", nargs=-1, required=True)
@click.option(
    "--text-encoder",
    metavar="T",
    help="Also find prompts that this encoder would cut, and names that it hardly tells apart.",
)
@click.option(
    "--prompts",
    metavar="P",
    help="Sentences that the encoder reads names in.  [default: vild-63; bare for glove:FILE]",
)
@click.option(
    "--text-bank",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="Also find names that these text embeddings hardly tell apart.",
)
@click.option(
    "--cosine",
    type=click.FloatRange(0, 1),
    help="From which on two embeddings are hardly told apart.  [default: 0.97]",
)
@click.option("--strict", is_flag=True, help="Leave with 1 for notes too.")
@click.option("--offline", is_flag=True, help="Never use the network.")
@_json_option
def lint(
    vocabs: tuple[str, ...],
    text_encoder: str | None,
    prompts: str | None,
    text_bank: Path | None,
    cosine: float | None,
    strict: bool,
    offline: bool,
    as_json: bool,
) -> int:
    """Find what is wrong with vocabularies; leave with 1 if there is a problem.

    Problems: categories that mean the same or read the same, plural and singular of one thing,
    parents that are missing or go round, negatives that are categories, letters that cannot be
    seen. Notes: attributes that are categories too, plurals, names that WordNet does not know.
    """
    from vildcli.vocabulary.files import load_vocabulary
    from vildcli.vocabulary.lint import lint as lint_words

    vocabularies = [load_vocabulary(reference) for reference in vocabs]
    wordnet = _wordnet_if_here()
    by_text = _text_linter(text_encoder, prompts, text_bank, cosine, offline)
    found = {
        reference: [*by_text(vocabulary), *lint_words(vocabulary, wordnet)]
        for reference, vocabulary in zip(vocabs, vocabularies, strict=True)
    }
    for reference, findings in found.items():
        _show_findings(reference, findings)
    if as_json:
        report = {reference: [asdict(f) for f in findings] for reference, findings in found.items()}
        click.echo(json.dumps({"wordnet": wordnet is not None, "findings": report}))
    levels = {finding.level for findings in found.values() for finding in findings}
    return int("problem" in levels or (strict and bool(levels)))


@command.command(
    short_help="What changed from one vocabulary to another.",
    epilog="\b\nExample:\n  vildcli vocab diff coco mine.yaml",
)
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@_json_option
def diff(a: str, b: str, as_json: bool) -> None:
    """Show what changed from vocabulary A to B; the order of categories does not count."""
    from vildcli.vocabulary.differences import differences
    from vildcli.vocabulary.files import load_vocabulary

    before, after = load_vocabulary(a), load_vocabulary(b)
    found = differences(before, after)
    if found:
        rows = [
            (d.change, d.what, d.name, d.field or "", _cell(d.before), _cell(d.after))
            for d in found
        ]
        console.show_table(f"{a} → {b}", ("change", "of", "name", "field", "before", "after"), rows)
    changes = [f"{sum(d.change == c for d in found)} {c}" for c in ("added", "removed", "changed")]
    console.say(", ".join(changes) if found else f"{a} and {b} say the same")
    if as_json:
        click.echo(json.dumps({"same": not found, "differences": [asdict(d) for d in found]}))


def _counts(vocabulary: Vocabulary) -> dict[str, Any]:
    categories = vocabulary.categories
    frequencies = [sum(c.frequency == f for c in categories) for f in "rcf"]
    base = [sum(c.base is value for c in categories) for value in (True, False)]
    return {
        "name": vocabulary.name,
        "categories": len(categories),
        "synonyms": sum(len(c.synonyms) for c in categories),
        "synsets": sum(c.synset is not None for c in categories),
        "frequencies": "/".join(map(str, frequencies)) if any(frequencies) else "-",
        "base": "/".join(map(str, base)) if any(base) else "-",
        "parents": len(vocabulary.parents),
        "attributes": " x ".join(f"{len(v)} {k}" for k, v in vocabulary.attributes.items()) or "-",
        "negatives": len(vocabulary.negatives),
    }


def _shown_branches(vocabulary: Vocabulary, depth: int | None) -> list[Branch]:
    from vildcli.vocabulary.tree import branches

    return [b for b in branches(vocabulary) if depth is None or b.depth < depth]


def _show_tree(vocabulary: Vocabulary, tree: list[Branch]) -> None:
    """Names are indented by their depth; those that nothing scores are in brackets."""
    rows = [
        (
            "  " * b.depth + (f"[{b.entry.name}]" if b.is_parent else b.entry.name),
            b.entry.id,
            b.below or "",
            b.entry.frequency or "",
            b.entry.synset or "",
        )
        for b in tree
    ]
    columns = ("category", "id", "below", "frequency", "synset")
    console.show_table(f"{vocabulary.name}: its categories", columns, rows)


def _as_json(vocabulary: Vocabulary, tree: list[Branch]) -> dict[str, Any]:
    entries = [
        {
            "id": b.entry.id,
            "name": b.entry.name,
            "parent": b.entry.parent,
            "depth": b.depth,
            "below": b.below,
            "is_parent": b.is_parent,
            "frequency": b.entry.frequency,
            "synset": b.entry.synset,
        }
        for b in tree
    ]
    return {**_counts(vocabulary), "tree": entries}


def _wordnet_if_here() -> WordNet | None:
    from vildcli.vocabulary.wordnet import load_wordnet

    try:
        return load_wordnet()
    except MissingDependencyError as error:
        console.warn(f"{error} Plurals are checked in part, synsets and unknown names not at all.")
        console.say(f"Hint: {error.hint}")
        return None


def _text_linter(
    text_encoder: str | None,
    prompts: str | None,
    text_bank: Path | None,
    cosine: float | None,
    offline: bool,
) -> Callable[[Vocabulary], list[Finding]]:
    """The checks that need an encoder or embeddings, loaded once for all vocabularies."""
    if not text_encoder and not text_bank:
        return lambda vocabulary: []
    from vildcli.text.bank import embed_categories, load_text_bank
    from vildcli.text.context import NEAR_SYNONYM_COSINE
    from vildcli.text.encoder import load_text_encoder, refuse_sentences, usual_prompts
    from vildcli.text.lengths import prompt_lengths
    from vildcli.text.templates import load_prompts
    from vildcli.vocabulary.lint import lint_embeddings, lint_lengths

    limit = NEAR_SYNONYM_COSINE if cosine is None else cosine
    encoder = load_text_encoder(text_encoder, offline=offline) if text_encoder else None
    templates = load_prompts(prompts or usual_prompts(text_encoder or ""))
    if encoder:
        refuse_sentences(encoder, templates)

    def check(vocabulary: Vocabulary) -> list[Finding]:
        names = [category.name for category in vocabulary.categories]
        found: list[Finding] = []
        if tokenizer := getattr(encoder, "tokenizer", None):
            lengths = prompt_lengths(vocabulary.categories, tokenizer, templates)
            found += lint_lengths(lengths, tokenizer.context_length)
        if encoder:
            embeddings = embed_categories(vocabulary.categories, encoder, templates)
            found += lint_embeddings(names, embeddings.numpy(), limit)
        if text_bank:
            bank = load_text_bank(text_bank, names)
            found += lint_embeddings(names, bank.embeddings.numpy(), limit)
        return found

    return check


def _show_findings(reference: str, findings: list[Finding]) -> None:
    counts = Counter(finding.level for finding in findings)
    problems, notes = (f"{counts[k]} {k}{'s' * (counts[k] != 1)}" for k in ("problem", "note"))
    title = f"{reference}: {problems}, {notes}"
    if findings:
        rows = [(f.level, f.check, f.message) for f in findings]
        console.show_table(title, ("", "check", "finding"), rows)
    else:
        console.say(title)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return ", ".join(value) if isinstance(value, list) else str(value)
