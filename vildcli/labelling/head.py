"""`regions/head.safetensors`: what scoring stored regions needs besides the words.

Tensors: `background` [D] where the system has a text side, `word_boxes` [4, D] where names have a
say in boxes. Metadata: temperatures, fusion, base categories, prompts, and which text encoder the
region embeddings were trained against.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from vildcli.detector.scoring import Fusion, ScoringHead
from vildcli.errors import RunError
from vildcli.labelling.records import HEAD_FILE
from vildcli.runs import refuse_newer, write_atomically, writing
from vildcli.text.templates import Prompts, prompts_from_dict
from vildcli.vocabulary.category import Category, category_from_dict

HEAD_FORMAT = 1


@dataclass(frozen=True, slots=True)
class StoredHead:
    """A scoring head with its text recipe.

    Attributes:
        text_encoder: identity of the encoder, or of the closed set; another one's embeddings live
            in another space.
        prompts: None in a closed set.
        attribute_prompts: what attributes are put into; None in a closed set.
        reference: the model file or open_clip reference that the encoder was loaded from.
    """

    head: ScoringHead
    text_encoder: str
    prompts: Prompts | None
    base: tuple[Category, ...]
    reference: str
    attribute_prompts: Prompts | None = None


def write_head(run: Path, stored: StoredHead) -> None:
    head = stored.head
    values = {
        "format": HEAD_FORMAT,
        "temperature": head.temperature,
        "image_temperature": head.image_temperature,
        "fusion": asdict(head.fusion),
        "text_encoder": stored.text_encoder,
        "prompts": stored.prompts and asdict(stored.prompts),
        "attribute_prompts": stored.attribute_prompts and asdict(stored.attribute_prompts),
        "base": [asdict(category) for category in stored.base],
        "reference": stored.reference,
    }
    values |= {"free_background": True} if head.free_background else {}
    known = {"background": head.background, "word_boxes": head.word_boxes}
    tensors = {name: t.contiguous() for name, t in known.items() if t is not None}
    # One key: safetensors writes several in an order of the moment, and equal heads would differ.
    metadata = {"head": json.dumps(values, sort_keys=True)}
    content = save(tensors, metadata)
    with writing(run):
        write_atomically(run / HEAD_FILE, lambda path: _write_bytes(path, content))


def _write_bytes(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def read_head(run: Path) -> StoredHead:
    """Read what `write_head` wrote.

    Raises:
        RunError: the run kept no regions, or the file is damaged or of a newer format.
    """
    path = run / HEAD_FILE
    if not path.is_file():
        raise RunError(
            f"{run} kept no region embeddings.",
            hint="Run detect with --keep-regions.",
        )
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise RunError(f"{path} is damaged: {error}.", hint="Run detect again.") from error
    values = json.loads(metadata["head"])
    refuse_newer(path, int(values.get("format", metadata.get("format", 0))), HEAD_FORMAT, RunError)
    said = (values["prompts"], values.get("attribute_prompts"))  # older heads lack the second
    prompts, attribute_prompts = (one and prompts_from_dict(one) for one in said)
    return StoredHead(
        ScoringHead(
            tensors.get("background"),
            values["temperature"],
            values["image_temperature"],
            Fusion(**values["fusion"]),
            values.get("free_background", False),
            tensors.get("word_boxes"),
        ),
        values["text_encoder"],
        prompts,
        tuple(category_from_dict(category) for category in values["base"]),
        values["reference"],
        attribute_prompts,
    )
