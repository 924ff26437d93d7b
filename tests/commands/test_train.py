from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from vildcli.commands.train import command
from vildcli.training import session
from vildcli.training.inputs import TrainingOptions


def options_of(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> TrainingOptions:
    """What a command line asks the library for."""
    asked: list[TrainingOptions] = []

    def train_system(options: TrainingOptions, out: Path, **_: object) -> Path:
        asked.append(options)
        return out / "model.safetensors"

    monkeypatch.setattr(session, "train_system", train_system)
    data = tmp_path / "train.json"
    data.touch()
    fixed = ["--train", str(data), "--images", str(tmp_path), "--out", str(tmp_path / "run")]
    done = CliRunner().invoke(command, [*arguments, *fixed])
    assert done.exit_code == 0, done.output
    return asked[0]


def test_parts_of_ezsd_are_options_of_any_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["--system", "vild", "--semantic-boxes", "--learn-temperature", "--distill-regions"]
    arguments += ["200", "--redraw-regions", "--equal-regions", "--class-loss", "seesaw"]
    options = options_of(arguments, tmp_path, monkeypatch)
    assert options.system == "vild"
    assert options.variation == {"semantic_boxes": True, "learned_temperature": True}
    assert options.overrides == {
        "distilled_regions": 200,
        "redrawn_regions": True,
        "region_weights": False,
        "class_loss": "seesaw",
    }
    assert (options.names, options.proposals, options.prompts) == ("all", None, None)


def test_what_is_not_given_is_the_rows_and_the_recipes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = options_of(["--system", "ezsd", "--plain-boxes"], tmp_path, monkeypatch)
    assert options.variation == {"semantic_boxes": False}
    assert options.overrides == {}
    assert options_of(["--system", "ezsd"], tmp_path, monkeypatch).variation == {}
