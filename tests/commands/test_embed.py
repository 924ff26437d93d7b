from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_clip import tiny_clip, tiny_config

from vildcli import cli
from vildcli.text.bank import load_text_bank
from vildcli.text.open_clip_models import save_open_clip


@pytest.fixture
def encoder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("VILDCLI_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "teacher"
    save_open_clip(folder, tiny_clip(tiny_config()), tiny_config())
    return folder


def embed(encoder: Path, out: Path, *more: str) -> int:
    arguments = ["embed", "voc", "--text-encoder", str(encoder), "--prompts", "single"]
    return cli.run([*arguments, "--out", str(out), *more])


def test_embed_writes_a_bank_that_loads(encoder, tmp_path, capsys):
    out = tmp_path / "voc.safetensors"
    assert embed(encoder, out, "--offline") == 0
    bank = load_text_bank(out)
    assert bank.names[:2] == ("aeroplane", "bicycle")
    assert bank.embeddings.shape == (20, 16)
    torch.testing.assert_close(bank.embeddings.norm(dim=-1), torch.ones(20))
    said = capsys.readouterr()
    assert said.out == ""
    assert f"20 names x 16 → {out}" in said.err


def test_embed_replaces_a_file_only_when_told(encoder, tmp_path, capsys):
    out = tmp_path / "voc.safetensors"
    out.write_bytes(b"mine")
    assert embed(encoder, out) == 1
    assert f"Error: {out} is there already." in capsys.readouterr().err
    assert out.read_bytes() == b"mine"
    assert embed(encoder, out, "--force") == 0
    assert len(load_text_bank(out).names) == 20


def test_embed_says_what_is_wrong_before_loading_a_model(tmp_path, capsys):
    out = ["--out", str(tmp_path / "x.safetensors")]
    assert cli.run(["embed", "cocoo", *out]) == 1
    assert "There is no shipped vocabulary 'cocoo'." in capsys.readouterr().err
    assert cli.run(["embed", "voc", "--out", "x.npy"]) == 1
    assert "Error: x.npy must end in .safetensors." in capsys.readouterr().err
    assert cli.run(["embed", "voc"]) == 2
