from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from tiny_clip import tiny_clip, tiny_config
from wordnet_places import real_wordnet, wordnet_only_in

from vildcli import cli
from vildcli.text.open_clip_models import save_open_clip

SHARED = Path(os.environ.get("VILDCLI_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))
LVIS_BANK = SHARED / "clip_text_banks" / "lvis_v1_clip_a+cname.npy"


@pytest.fixture
def has_wordnet() -> None:
    real_wordnet()


@pytest.fixture
def no_wordnet(tmp_path: Path) -> Iterator[None]:
    with wordnet_only_in(tmp_path):
        yield


@pytest.fixture
def encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("VILDCLI_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "teacher"
    save_open_clip(folder, tiny_clip(tiny_config()), tiny_config())
    return str(folder)


def write(folder: Path, text: str, name: str = "v.yaml") -> str:
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


@pytest.mark.parametrize("name", ["show", "lint", "diff"])
def test_each_has_help_an_example_and_explained_options(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["vocab", name, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"\n  vildcli vocab {name} " in text.partition("Example")[2].replace("\n    ", "\n  ")
    group = cli.cli.get_command(click.Context(cli.cli), "vocab")
    assert isinstance(group, click.Group)
    for parameter in group.commands[name].params:
        assert isinstance(parameter, click.Argument) or parameter.help


def test_show_counts_and_draws_the_tree(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "name: pond\ncategories:\n"
        "  - {id: 3, name: gull, synset: gull.n.02, frequency: c, parent: bird, base: true}\n"
        "  - {id: 4, name: Herring Gull, synonyms: [a, b], parent: gull}\n"
        "  - {id: 5, name: reed, frequency: f}\n"
        "parents: [{id: 9, name: bird}]\nattributes: {colour: [red, blue], size: [big]}\n",
    )
    assert cli.run(["vocab", "show", path]) == 0
    said = capsys.readouterr()
    assert said.out == ""
    assert [line.split() for line in said.err.splitlines()[2:3]] == [
        ["pond", "3", "2", "1", "0/1/1", "1/0", "1", "2", "colour", "x", "1", "size", "0"]
    ]
    assert [line.rstrip() for line in said.err.splitlines()[3:]] == [
        "pond: its categories",
        "category          id  below  frequency  synset",
        "reed              5          f",
        "[bird]            9   2",
        "  gull            3   1      c          gull.n.02",
        "    Herring Gull  4",
    ]
    assert cli.run(["vocab", "show", path, "--depth", "2", "--json"]) == 0
    (shown,) = json.loads(capsys.readouterr().out)["vocabularies"]
    assert [entry["name"] for entry in shown["tree"]] == ["reed", "bird", "gull"]
    assert (shown["categories"], shown["frequencies"]) == (3, "0/1/1")


def test_show_arranges_by_wordnet(capsys: pytest.CaptureFixture[str], has_wordnet: None) -> None:
    assert cli.run(["vocab", "show", "coco", "voc", "--hypernyms"]) == 0
    lines = [line.split("  ")[0] for line in capsys.readouterr().err.splitlines()]
    assert lines.count("coco") == lines.count("voc") == 1
    assert "[vertebrate]" in lines


def test_lint_leaves_with_0_for_notes_and_1_for_problems(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, has_wordnet: None
) -> None:
    assert cli.run(["vocab", "lint", "voc"]) == 0
    assert capsys.readouterr().err.splitlines() == [
        "voc: 0 problems, 2 notes",
        "      check   finding",
        "note  synset  'cow' shares no word with its synset beef.n.01 (beef, beef cattle)",
        "note  synset  'pottedplant' shares no word with its synset pot.n.04 (pot, flowerpot)",
    ]
    assert cli.run(["vocab", "lint", "voc", "--strict"]) == 1
    path = write(tmp_path, "[bears, bear]")
    capsys.readouterr()
    assert cli.run(["vocab", "lint", "voc", path, "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["wordnet"] is True
    assert report["findings"][path] == [
        {
            "level": "problem",
            "check": "plural",
            "names": ["bears", "bear"],
            "message": "'bears' is the plural of 'bear'",
        }
    ]


def test_a_clean_vocabulary_is_said_to_be_so(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, has_wordnet: None
) -> None:
    path = write(tmp_path, "[sofa, dog]")
    assert cli.run(["vocab", "lint", path, "--strict"]) == 0
    assert capsys.readouterr().err == f"{path}: 0 problems, 0 notes\n"


def test_lint_without_wordnet_says_what_is_left_out(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, no_wordnet: None
) -> None:
    assert cli.run(["vocab", "lint", write(tmp_path, "[bears, bear]")]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == (
        "Warning: WordNet is not here. Plurals are checked in part, synsets and unknown names not "
        "at all."
    )
    assert lines[1].startswith("Hint: Install it with")
    assert lines[2].endswith("1 problem, 0 notes")


def test_lint_finds_prompts_that_the_encoder_cuts_and_near_duplicates(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, encoder: str
) -> None:
    long = " ".join(["word"] * 80)
    path = write(tmp_path, f"[sofa, so-fa, {long}, {long} more]")
    arguments = ["vocab", "lint", path, "--text-encoder", encoder, "--prompts", "bare"]
    assert cli.run([*arguments, "--offline", "--json"]) == 1
    (found,) = json.loads(capsys.readouterr().out)["findings"].values()
    by_check: dict[str, list[list[str]]] = {}
    for finding in found:
        by_check.setdefault(finding["check"], []).append(finding["names"])
    assert by_check["too long"] == [[long], [f"{long} more"]]
    # Cut after 77 tokens the two long names are one sentence.
    assert [long, f"{long} more"] in by_check["near-duplicate"]


@pytest.mark.skipif(not LVIS_BANK.is_file(), reason=f"no shared data at {SHARED}")
def test_lint_reads_real_text_embeddings(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["vocab", "lint", "lvis-v1", "--text-bank", str(LVIS_BANK)]
    assert cli.run(arguments) == 0
    assert "near-duplicate" not in capsys.readouterr().err
    assert cli.run([*arguments, "--cosine", "0.96"]) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if "near-duplicate" in line]
    assert any("'hardback_book' and 'paperback_book'" in line for line in lines)


def test_diff(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    a = write(tmp_path, "[{id: 1, name: apple}, {id: 2, name: pear}]", "a.yaml")
    b = write(
        tmp_path, "[{id: 1, name: apple, synonyms: [pome, fruit]}, {id: 3, name: fig}]", "b.yaml"
    )
    assert cli.run(["vocab", "diff", a, b, "--json"]) == 0
    said = capsys.readouterr()
    assert [line.rstrip() for line in said.err.splitlines()] == [
        f"{a} → {b}",
        "change   of        name   field     before  after",
        "changed  category  apple  synonyms          pome, fruit",
        "removed  category  pear             -       -",
        "added    category  fig              -       -",
        "1 added, 1 removed, 1 changed",
    ]
    report = json.loads(said.out)
    assert report["same"] is False
    assert report["differences"][0]["after"] == ["pome", "fruit"]
    assert cli.run(["vocab", "diff", "coco", "coco", "--json"]) == 0
    said = capsys.readouterr()
    assert said.err == "coco and coco say the same\n"
    assert json.loads(said.out) == {"same": True, "differences": []}


def test_a_vocabulary_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["show", "cocoo"], ["lint", "cocoo"], ["diff", "coco", "cocoo"]):
        assert cli.run(["vocab", *arguments]) == 1
        assert "Error: There is no shipped vocabulary 'cocoo'." in capsys.readouterr().err
