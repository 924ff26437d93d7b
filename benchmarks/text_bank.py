"""Building a text bank beside open_clip called plainly, in one run.

    python benchmarks/text_bank.py                       # 100 names of LVIS, ViT-B-32, 63 templates
    python benchmarks/text_bank.py --names 1203 --repeats 1

Both sides encode the same sentences of the same names and synonyms with the same random weights.
"Plainly" is tokenizer and `encode_text` on batches of 256 in the order of the names; ours sorts
sentences by length and cuts the padding, which changes nothing (the cosines are printed).
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from datetime import date
from typing import Any

import open_clip
import torch
from torch import Tensor
from torch.nn.functional import normalize

from vildcli.text.bank import embed_categories
from vildcli.text.encoder import OpenClipTextEncoder
from vildcli.text.templates import Prompts, load_prompts
from vildcli.vocabulary.category import Category
from vildcli.vocabulary.files import load_vocabulary
from vildcli.vocabulary.names import names_of

BATCH = 256


def main() -> None:
    given = _arguments()
    if given.threads:
        torch.set_num_threads(given.threads)
    categories = load_vocabulary("lvis-v1").categories[: given.names]
    prompts = load_prompts(given.prompts)
    encoder = _encoder(given.model)
    times: dict[str, list[float]] = {"open_clip, plainly": [], "vildcli": []}
    for _ in range(given.repeats):
        plain, seconds = _timed(lambda: _plain(encoder, categories, prompts))
        times["open_clip, plainly"].append(seconds)
        ours, seconds = _timed(lambda: embed_categories(categories, encoder, prompts, cache=False))
        times["vildcli"].append(seconds)
    sentences = sum(len(names_of(c)) for c in categories) * len(prompts.templates)
    print(
        f"{date.today()}, {platform.processor() or platform.machine()}, torch {torch.__version__}"
    )
    print(
        f"{given.model}, {len(categories)} names, {sentences} sentences, "
        f"{torch.get_num_threads()} threads, median of {given.repeats}"
    )
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, seconds in medians.items():
        print(f"{name:20} {seconds:8.1f} s  {sentences / seconds:8.0f} sentences/s")
    slow, quick = medians.values()
    print(f"ratio {slow / quick:.2f}, least cosine {(plain * ours).sum(1).min():.6f}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="ViT-B-32")
    parser.add_argument("--names", type=int, default=100)
    parser.add_argument("--prompts", default="vild-63")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int)
    return parser.parse_args()


def _encoder(name: str) -> OpenClipTextEncoder:
    torch.manual_seed(0)
    model = open_clip.create_model(name).eval()
    config = open_clip.get_model_config(name)
    assert config is not None, name
    return OpenClipTextEncoder(model, open_clip.get_tokenizer(name), config, "random", 0.01)


def _plain(
    encoder: OpenClipTextEncoder, categories: Sequence[Category], prompts: Prompts
) -> Tensor:
    """What people write: a loop over names, every sentence at the full 77 positions."""
    encode: Any = encoder.tower.encode_text
    rows = []
    for category in categories:
        by_name = []
        for name in names_of(category):
            tokens = encoder.tokenizer(prompts.sentences(name))
            with torch.inference_mode():
                found = [encode(part) for part in torch.split(tokens, BATCH)]
            by_name.append(normalize(normalize(torch.cat(found), dim=-1).mean(0), dim=-1))
        rows.append(normalize(torch.stack(by_name).mean(0), dim=-1))
    return torch.stack(rows)


def _timed(build: Callable[[], Tensor]) -> tuple[Tensor, float]:
    begin = time.perf_counter()
    found = build()
    return found, time.perf_counter() - begin


if __name__ == "__main__":
    main()
