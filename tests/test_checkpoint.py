from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_detector import (
    BASE,
    TRAINED,
    tiny_card,
    tiny_context,
    tiny_detector,
    tiny_distillation,
    tiny_images,
    tiny_target,
)

from vildcli.checkpoint import find_model, load_model, save_model
from vildcli.errors import ModelError
from vildcli.systems import SYSTEMS

CPU = torch.device("cpu")


def saved(path: Path, system: str = "vild", **card: object) -> Path:
    save_model(path, tiny_detector(system), {}, tiny_card(system, **card))
    return path


def said(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="pt") as file:
        (text,) = file.metadata().values()
    return json.loads(text)


def rewritten(path: Path, **changes: object) -> Path:
    metadata = {"vildcli-model": json.dumps({**said(path), **changes})}
    save_file(load_file(path), path, metadata)
    return path


def refusal(path: Path) -> ModelError:
    with pytest.raises(ModelError) as error:
        load_model(path, CPU)
    assert "\n" not in str(error.value)
    return error.value


@pytest.mark.parametrize("system", TRAINED)
def test_a_trained_step_survives_the_file(system: str, tmp_path: Path) -> None:
    detector = tiny_detector(system).train()
    distillation = [tiny_distillation()] * 2 if SYSTEMS[system].distilled else None
    context = tiny_context(system)
    losses = detector(tiny_images(), [tiny_target(), tiny_target(1)], context, distillation)
    optimiser = torch.optim.SGD(detector.parameters(), 0.01)
    torch.stack([loss.mean() for loss in losses.values()]).sum().backward()
    optimiser.step()
    detector.eval()
    tower = {"ln_final.weight": torch.arange(3.0)}
    save_model(tmp_path / "model.safetensors", detector, tower, tiny_card(system))
    model = load_model(tmp_path / "model.safetensors", CPU)
    assert model.card.as_dict() == json.loads(json.dumps(tiny_card(system).as_dict())) | {
        "base_categories": tuple(asdict(category) for category in BASE)
    }
    assert model.card.base_categories == BASE
    assert torch.equal(model.text_tower["ln_final.weight"], torch.arange(3.0))
    assert not model.detector.training
    images = list(tiny_images())
    for ours, theirs in zip(detector.regions(images), model.detector.regions(images), strict=True):
        assert len(ours) > 0
        for name in ("boxes", "proposals", "objectness", "masks", "text_side", "image_side"):
            a, b = getattr(ours, name), getattr(theirs, name)
            assert (a is None and b is None) or torch.equal(a, b), name


def test_identity__of_a_copy_is_the_same_and_of_other_weights_or_temperature_is_not(
    tmp_path: Path,
) -> None:
    first = saved(tmp_path / "a.safetensors")
    shutil.copy(first, tmp_path / "copy.safetensors")
    other = saved(tmp_path / "b.safetensors", temperature=0.2)
    changed = load_file(first)
    changed["detector.background"] += 1
    with safe_open(first, framework="pt") as file:
        save_file(changed, tmp_path / "c.safetensors", file.metadata())
    names = ("a", "copy", "b", "c")
    identities = [load_model(tmp_path / f"{n}.safetensors", CPU).identity for n in names]
    assert identities[0] == identities[1]
    assert len(set(identities)) == 3
    assert other.exists()


def test_equal_models_are_equal_bytes(tmp_path: Path) -> None:
    """Of two metadata keys, eight files in one order would be chance: 1 in 128."""
    files = [saved(tmp_path / f"{i}.safetensors").read_bytes() for i in range(8)]
    assert len(set(files)) == 1


def test_an_older_file__has_a_key_for_the_format_and_one_for_the_card(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.safetensors")
    new = load_model(path, CPU)
    metadata = {"format": "vildcli-model/1", "card": json.dumps(said(path)["card"])}
    save_file(load_file(path), path, metadata)
    old = load_model(path, CPU)
    assert (old.identity, old.card) == (new.identity, new.card)
    save_file(load_file(path), path, {**metadata, "card": "{"})
    assert str(refusal(path)).startswith(f"{path} has a card that cannot be read: ")


def test_a_training_run_stands_for_its_model(tmp_path: Path) -> None:
    model = saved(tmp_path / "run" / "checkpoints" / "model.safetensors")
    assert find_model(tmp_path / "run") == model
    assert find_model(str(model)) == model


def test_nothing_there(tmp_path: Path) -> None:
    error = refusal(tmp_path / "none.safetensors")
    assert str(error) == f"There is no model at {tmp_path / 'none.safetensors'}."
    assert error.hint == (
        "Give a .safetensors file, the folder of a finished training run, or weights of DetPro's."
    )


def test_a_newer_format_is_refused_with_both_numbers(tmp_path: Path) -> None:
    path = rewritten(saved(tmp_path / "m.safetensors"), format=7)
    error = refusal(path)
    assert str(error) == f"{path} has format 7; this vildcli reads up to 1."
    assert error.hint == "Update vildcli."


def test_not_a_safetensors_file(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(b"hello, this is text and no model")
    error = refusal(path)
    assert str(error).startswith(f"{path} is not a safetensors file: ")
    assert error.hint == "Give a model trained by vildcli."


@pytest.mark.parametrize(
    "metadata", [None, {"format": "pt"}, {"format": "vildcli-text-bank/1"}, {"format": "x/y"}]
)
def test_another_programs_safetensors(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    path = tmp_path / "m.safetensors"
    save_file({"weight": torch.zeros(2)}, path, metadata)
    assert str(refusal(path)) == f"{path} is not a vildcli model file."


@pytest.mark.parametrize("card", [None, [], {}, {"system": "vild", "colour": 1}])
def test_a_damaged_card(tmp_path: Path, card: object) -> None:
    path = rewritten(saved(tmp_path / "m.safetensors"), card=card)
    error = refusal(path)
    assert str(error).startswith(f"{path} has a card that cannot be read: ")
    assert error.hint == "Give a model trained by vildcli."


def test_weights_that_do_not_fit_the_card(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.safetensors")
    error = refusal(rewritten(path, card={**said(path)["card"], "embedding_width": 24}))
    assert str(error).startswith(f"{path} does not fit its own card: ")
    assert "background" in str(error) or "project" in str(error)


def test_an_unknown_system_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.safetensors")
    path = rewritten(path, card={**said(path)["card"], "system": "vild-next"})
    assert str(refusal(path)) == "There is no system 'vild-next'."
