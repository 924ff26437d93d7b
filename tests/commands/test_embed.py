from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_clip import tiny_clip, tiny_config
from tiny_glove import VECTORS, write_glove
from torch.nn.functional import normalize

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


def test_embed_in_bfloat16_serves_the_same_models(encoder, tmp_path):
    exact, rounded = tmp_path / "exact.safetensors", tmp_path / "rounded.safetensors"
    assert embed(encoder, rounded, "--precision", "bf16") == 0
    assert embed(encoder, exact) == 0  # nothing of the rounded bank comes out of the cache
    one, other = load_text_bank(exact), load_text_bank(rounded)
    assert not torch.equal(one.embeddings, other.embeddings)
    assert (one.embeddings * other.embeddings).sum(1).min() > 0.999
    assert one.encoder == other.encoder


def test_embed_says_what_is_wrong_before_loading_a_model(tmp_path, capsys):
    out = ["--out", str(tmp_path / "x.safetensors")]
    assert cli.run(["embed", "cocoo", *out]) == 1
    assert "There is no shipped vocabulary 'cocoo'." in capsys.readouterr().err
    assert cli.run(["embed", "voc", "--out", "x.npy"]) == 1
    assert "Error: x.npy must end in .safetensors." in capsys.readouterr().err
    assert cli.run(["embed", "voc"]) == 2


def test_embed_reads_bare_names_with_glove_and_says_what_it_leaves_out(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("VILDCLI_CACHE", str(tmp_path / "cache"))
    file, vocabulary = write_glove(tmp_path / "glove.txt"), tmp_path / "fruit.txt"
    vocabulary.write_text("apple\nred xyzzy pear\n")
    out = tmp_path / "fruit.safetensors"
    call = ["embed", str(vocabulary), "--text-encoder", f"glove:{file}", "--out", str(out)]
    assert cli.run([*call, "--prompts", "vild-63"]) == 1
    assert "GloVe reads names and no sentences" in capsys.readouterr().err
    assert cli.run([*call, "--precision", "bf16"]) == 1
    assert "GloVe's vectors are looked up, so there is no precision" in capsys.readouterr().err
    assert cli.run(call) == 0
    said = capsys.readouterr().err
    assert "Warning: Words without a vector were left out: xyzzy of 'red xyzzy pear'." in said
    assert f"2 names x 4 → {out}" in said
    bank = load_text_bank(out)
    rows = torch.tensor([VECTORS["red"], VECTORS["pear"]])
    torch.testing.assert_close(bank.embeddings[1], normalize(rows.mean(dim=0), dim=-1))
    assert bank.temperature == 0.01


def test_embed_lists_ten_names_that_lack_words_and_counts_the_rest(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("VILDCLI_CACHE", str(tmp_path / "cache"))
    file, vocabulary = write_glove(tmp_path / "glove.txt"), tmp_path / "fruit.txt"
    vocabulary.write_text("".join(f"apple qux{i}\n" for i in range(12)))
    call = ["embed", str(vocabulary), "--text-encoder", f"glove:{file}", "--out"]
    assert cli.run([*call, str(tmp_path / "fruit.safetensors")]) == 0
    said = capsys.readouterr().err
    assert "qux9 of 'apple qux9'; and of 2 more names." in said
    assert "qux10" not in said
