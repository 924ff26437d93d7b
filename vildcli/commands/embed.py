"""`vildcli embed`: turn a vocabulary into text embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import click

from vildcli.console import progress, say, warn
from vildcli.errors import RunError

NAMES_SHOWN = 10


@click.command(
    epilog="\b\nExample:\n"
    "  vildcli embed coco --text-encoder ViT-B-32:openai --prompts vild-63 --out coco.safetensors"
)
@click.argument("vocab")
@click.option(
    "--text-encoder",
    default="ViT-B-32:openai",
    show_default=True,
    help="An open_clip model: ARCHITECTURE:TAG, ARCHITECTURE:FILE or a folder; or glove:FILE.",
)
@click.option("--prompts", help="Shipped name or file.  [default: vild-63; bare for glove:FILE]")
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="The bank, a .safetensors file.",
)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "bf16"]),
    default="fp32",
    show_default=True,
    help="Of the encoder's weights; bf16 is twice as fast where the processor computes in it.",
)
@click.option("--offline", is_flag=True, help="Never use the network.")
@click.option("--force", is_flag=True, help="Replace an existing file.")
def command(
    vocab: str,
    text_encoder: str,
    prompts: str | None,
    out: Path,
    precision: str,
    offline: bool,
    force: bool,
) -> None:
    """Write the text bank of VOCAB, a shipped name or a file: one unit vector a category."""
    if out.suffix != ".safetensors":
        raise RunError(f"{out} must end in .safetensors.", hint=f"--out {out.stem}.safetensors")
    if out.exists() and not force:
        raise RunError(f"{out} is there already.", hint="Choose another --out, or --force.")
    from vildcli.text.bank import embed_vocabulary, save_text_bank
    from vildcli.text.encoder import (
        in_bfloat16,
        load_text_encoder,
        refuse_sentences,
        unread_words,
        usual_prompts,
    )
    from vildcli.text.templates import load_prompts
    from vildcli.vocabulary.files import load_vocabulary

    vocabulary = load_vocabulary(vocab)
    templates = load_prompts(prompts or usual_prompts(text_encoder))
    encoder = load_text_encoder(text_encoder, offline=offline)
    refuse_sentences(encoder, templates)
    rounded = in_bfloat16(encoder) if precision == "bf16" else encoder
    with progress("Embedding names", None) as advance:
        bank = embed_vocabulary(vocabulary, rounded, templates, advance=advance)
    # Rounding moves vectors within the encoder's space: they serve the same models.
    save_text_bank(replace(bank, encoder=encoder.identity), out)
    warn_of_unread(unread_words(encoder, vocabulary.categories))
    say(f"{len(bank.names)} names x {encoder.width} → {out}")


def warn_of_unread(unread: Mapping[str, Sequence[str]]) -> None:
    """Name the words that an encoder left out of names, where it did."""
    if not unread:
        return
    shown = [f"{', '.join(words)} of '{name}'" for name, words in unread.items()]
    more = len(shown) - NAMES_SHOWN
    rest = f"; and of {more} more names" if more > 0 else ""
    warn(f"Words without a vector were left out: {'; '.join(shown[:NAMES_SHOWN])}{rest}.")
