"""Building a text bank beside open_clip called plainly, in one run.

    python -m benchmarks.text_bank                       # 40 names of LVIS, ViT-B-32, 63 templates
    python -m benchmarks.text_bank --names 1203 --plain-names 20 --repeats 1

All encode sentences of names and synonyms, spread evenly over LVIS, with the same random weights:

- open_clip plainly, a loop over names: tokenizer and `encode_text`, all 77 positions of a sentence.
  A sentence takes it as long as any other, so that a few names are enough for its rate;
- `vildcli embed`, which changes nothing but the order: every prefix that sentences share is
  computed once, and no padding. The least cosine to the plain vectors is printed;
- `vildcli embed --precision bf16`: the same with weights in bfloat16.

Turns alternate, so that whatever else the machine does falls on all. Rates are by the clock, the
ratio is of the CPU time of all threads; medians of the turns. With a GPU both are by the clock.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks.recording import Row, command_line, hardware, print_heading, record
from vildcli.text.bank import embed_categories
from vildcli.text.encoder import OpenClipTextEncoder, in_bfloat16
from vildcli.text.templates import Prompts, load_prompts
from vildcli.vocabulary.category import Category
from vildcli.vocabulary.files import load_vocabulary
from vildcli.vocabulary.names import names_of

PLAIN, EXACT, ROUNDED = "open_clip, plainly", "vildcli", "vildcli, bf16 weights"
BATCH = 256


@dataclass(frozen=True, slots=True)
class Turn:
    """One bank built once: what came out, and seconds by the clock and of all threads."""

    embeddings: Tensor
    seconds: float
    cpu_seconds: float


def main(arguments: Sequence[str] | None = None) -> None:
    given = _arguments(arguments)
    if given.threads:
        torch.set_num_threads(given.threads)
    names = _spread(given.names)
    few = names[:: max(1, len(names) // given.plain_names)][: given.plain_names]
    prompts, encoder = load_prompts(given.prompts), _encoder(given.model, given.device)
    rounded = in_bfloat16(_copy(encoder))
    works = {
        PLAIN: lambda: _plain(encoder, few, prompts),
        EXACT: lambda: embed_categories(names, encoder, prompts, cache=False),
        ROUNDED: lambda: embed_categories(names, rounded, prompts, cache=False),
    }
    turns: dict[str, list[Turn]] = {who: [] for who in works}
    for _ in range(given.repeats):
        for who, work in works.items():
            turns[who].append(_timed(work, given.device))
    sentences = {who: _sentences(few if who == PLAIN else names, prompts) for who in works}
    found = {who: of_one[0].embeddings for who, of_one in turns.items()}
    places = [names.index(category) for category in few]
    cosines = {
        EXACT: _least_cosine(found[EXACT][places], found[PLAIN]),
        ROUNDED: _least_cosine(found[ROUNDED], found[EXACT]),
    }
    rows = [_row(who, turns, sentences, cosines.get(who), given) for who in works]
    print_heading("benchmarks.text_bank", given.device)
    print(f"{given.model}, {len(names)} names, {sentences[EXACT]} sentences")
    for row in rows:
        values = ", ".join(f"{value} {key}" for key, value in row.measured.items())
        print(f"{row.row:24}{values}")
    if given.out:
        record(rows, given.out)


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--model", default="ViT-B-32")
    parser.add_argument("--names", type=int, default=40, help="of LVIS, with their synonyms")
    parser.add_argument("--plain-names", type=int, default=3, help="of them, encoded plainly")
    parser.add_argument("--prompts", default="vild-63")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, help="of torch  [default: all]")
    parser.add_argument("--out", type=Path, help="record in this JSON file")
    parser.add_argument("--note", default="", help="recorded: what a reader must know")
    return parser.parse_args(arguments)


def _spread(count: int) -> tuple[Category, ...]:
    """So many of LVIS's categories, from A to Z."""
    categories = load_vocabulary("lvis-v1").categories
    return tuple(categories[i * len(categories) // count] for i in range(count))


def _encoder(name: str, device: str) -> OpenClipTextEncoder:
    torch.manual_seed(0)
    model = open_clip.create_model(name).eval().to(device)
    config = open_clip.get_model_config(name)
    assert config is not None, name
    return OpenClipTextEncoder(model, open_clip.get_tokenizer(name), config, "random", 0.01)


def _copy(encoder: OpenClipTextEncoder) -> OpenClipTextEncoder:
    return OpenClipTextEncoder(
        copy.deepcopy(encoder.tower), encoder.tokenizer, encoder.config, "random", 0.01
    )


def _sentences(categories: Sequence[Category], prompts: Prompts) -> int:
    return sum(len(names_of(c)) for c in categories) * len(prompts.templates)


def _plain(
    encoder: OpenClipTextEncoder, categories: Sequence[Category], prompts: Prompts
) -> Tensor:
    """What people write: a loop over names, every sentence at the full 77 positions."""
    encode: Any = encoder.tower.encode_text
    device = next(encoder.tower.parameters()).device
    rows = []
    for category in categories:
        by_name = []
        for name in names_of(category):
            tokens = encoder.tokenizer(prompts.sentences(name)).to(device)
            with torch.inference_mode():
                found = [encode(part) for part in torch.split(tokens, BATCH)]
            by_name.append(normalize(normalize(torch.cat(found), dim=-1).mean(0), dim=-1))
        rows.append(normalize(torch.stack(by_name).mean(0), dim=-1).cpu())
    return torch.stack(rows)


def _timed(build: Callable[[], Tensor], device: str) -> Turn:
    begin, cpu = time.perf_counter(), time.process_time()
    found = build()  # on the CPU at last, so that a GPU is done
    seconds, busy = time.perf_counter() - begin, time.process_time() - cpu
    return Turn(found, seconds, busy if device == "cpu" else seconds)


def _least_cosine(ours: Tensor, theirs: Tensor) -> float:
    return float((ours.double() * theirs.double()).sum(1).min().item())


def _row(
    who: str,
    turns: dict[str, list[Turn]],
    sentences: dict[str, int],
    cosine: float | None,
    given: argparse.Namespace,
) -> Row:
    def each(name: str, kind: str) -> float:
        return float(statistics.median(getattr(t, kind) for t in turns[name])) / sentences[name]

    kind = "CPU " if given.device == "cpu" else ""
    measured: dict[str, Any] = {
        "sentences/s": round(1 / each(who, "seconds"), 1),
        f"{kind}ms": round(each(who, "cpu_seconds") * 1e3, 3),
        f"{kind}ratio": round(each(PLAIN, "cpu_seconds") / each(who, "cpu_seconds"), 2),
    }
    measured |= {} if cosine is None else {"least cosine": round(cosine, 6)}
    return Row(
        item="text_bank",
        row=who,
        parameters={
            "model": given.model,
            "prompts": given.prompts,
            "names": given.names,
            "sentences": sentences[who],
        },
        measured=measured,
        hardware=hardware(given.device),
        command=command_line("benchmarks.text_bank"),
        note=given.note,
    )


if __name__ == "__main__":
    main()
