from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from vildcli.cli import run
from vildcli.runs import read_run
from vildcli.world import emoji

SMALL = ["--images", "3", "--val-images", "2", "--caption-images", "2"]


def test_world__draws_and_says_what_is_next(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "w"
    assert run(["world", str(folder), *SMALL]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert f"{folder} holds the world: 3 training and 2 validation images." in err
    assert f"Next: vildcli train --system vild-text --train {folder}/train.json" in err
    assert len(list((folder / "train").iterdir())) == 3


def test_world__again_is_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["world", str(tmp_path / "w"), *SMALL]
    assert run(arguments) == 0
    drawn = (tmp_path / "w" / "train.json").stat().st_mtime_ns
    assert run(arguments) == 0
    assert (tmp_path / "w" / "train.json").stat().st_mtime_ns == drawn
    assert "is already drawn" in capsys.readouterr().err


def test_world__another_one_needs_force(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["world", str(tmp_path / "w"), *SMALL]
    assert run(arguments) == 0
    assert run([*arguments, "--seed", "1"]) == 1
    assert "(seed: 0 there, 1 now)" in capsys.readouterr().err
    assert run([*arguments, "--seed", "1", "--force"]) == 0


def test_world__never_touches_a_strangers_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    assert run(["world", str(tmp_path), *SMALL, "--force"]) == 1
    assert "was not made by vildcli" in capsys.readouterr().err
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_world__without_novel_objects_on_photographs(tmp_path: Path) -> None:
    (tmp_path / "photographs").mkdir()
    Image.new("RGB", (320, 240), "grey").save(tmp_path / "photographs" / "a.png")
    options = ["--without-novel", "--backgrounds", str(tmp_path / "photographs")]
    assert run(["world", str(tmp_path / "w"), *SMALL, *options]) == 0
    settings = read_run(tmp_path / "w", "world")["settings"]
    assert settings["novel"] is False
    assert len(settings["backgrounds"]) == 16


def test_world__emoji_without_a_font(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(emoji, "FONTS", ())
    emoji._font.cache_clear()
    emoji.draw_emoji.cache_clear()
    assert run(["world", str(tmp_path / "w"), *SMALL, "--sprites", "emoji"]) == 1
    assert capsys.readouterr().err.splitlines()[-2:] == [
        "Error: No colour-emoji font was found.",
        "Hint: Debian and Ubuntu: apt-get install fonts-noto-color-emoji. Or use --sprites shapes.",
    ]
    assert not (tmp_path / "w").exists()
