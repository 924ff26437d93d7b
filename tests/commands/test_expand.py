from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from wordnet_places import real_wordnet, wordnet_only_in

from vildcli import cli
from vildcli.vocabulary.files import load_vocabulary


@pytest.fixture
def has_wordnet() -> None:
    real_wordnet()


@pytest.fixture
def no_wordnet(tmp_path: Path) -> Iterator[None]:
    with wordnet_only_in(tmp_path):
        yield


def test_expand_writes_a_file_and_says_how_large_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "size.txt").write_text("big\nsmall\n")
    out = tmp_path / "coloured.yaml"
    arguments = ["--attributes", "colors", "--attributes", str(tmp_path / "size.txt")]
    assert cli.run(["expand", "lvis-v1", *arguments, "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines() == [
        "1,203 categories (1,203 before), x 11 colour x 2 size = 26,466 joint names",
        f"Wrote {out}",
        f"Next: vildcli vocab lint {out}",
    ]
    found = load_vocabulary(out)
    assert found.categories == load_vocabulary("lvis-v1").categories
    assert found.attributes["size"] == ("big", "small")


def test_the_file_tells_neither_time_nor_place(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        out = tmp_path / folder / f"{folder}.yaml"
        assert cli.run(["expand", "coco", "--attributes", "colours", "--out", str(out)]) == 0
    assert (tmp_path / "a/a.yaml").read_bytes() == (tmp_path / "b/b.yaml").read_bytes()
    assert str(tmp_path) not in (tmp_path / "a/a.yaml").read_text()


def test_flat_names_go_to_csv(tmp_path: Path) -> None:
    out = tmp_path / "flat.csv"
    arguments = ["expand", "voc", "--attributes", "colours", "--flatten", "--out", str(out)]
    assert cli.run(arguments) == 0
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 220
    assert (rows[0]["id"], rows[0]["name"]) == ("1", "black aeroplane")
    assert (rows[-1]["id"], rows[-1]["name"]) == ("220", "yellow tvmonitor")


def test_species_are_listed_one_by_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], has_wordnet: None
) -> None:
    out = tmp_path / "birds.json"
    assert cli.run(["expand", "lvis-v1", "--species", "cub200", "--out", str(out), "--json"]) == 0
    said = capsys.readouterr()
    lines = said.err.splitlines()
    assert lines[0] == "Species"
    assert lines[1].split() == ["species", "found", "by", "WordNet", "below"]
    assert (
        "200 species: 113 by group, 77 by name, 8 by scientific name, 2 by synonym, 0 not found"
        in lines
    )
    (mallard,) = [line for line in lines if line.startswith("Mallard ")]
    assert mallard.endswith("bird, there already as mallard")
    report = json.loads(said.out)
    assert (report["out"], report["categories"], report["parents"]) == (str(out), 1402, 35)
    assert [row["species"] for row in report["species"]] == [
        c.name for c in load_vocabulary("cub200").categories
    ]
    assert report["species"][0] == {
        "species": "Black-footed Albatross",
        "found_by": "name",
        "synset": "black-footed_albatross.n.01",
        "category": "Black-footed Albatross",
        "was_there": False,
    }
    assert len(load_vocabulary(out)) == 1402


def test_ambiguous_and_unknown_names_are_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], has_wordnet: None
) -> None:
    (tmp_path / "things.txt").write_text("crane\nsofa\ncar\nzzz\n")
    out = tmp_path / "more.yaml"
    arguments = ["expand", str(tmp_path / "things.txt"), "--synonyms", "--json"]
    assert cli.run([*arguments, "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert said.err.splitlines()[:5] == [
        "Names of several senses; to choose another than was taken, write synset: into VOCAB",
        "category  taken       or          taken means",
        "crane     crane.n.04  crane.n.05  lifts and moves heavy objects; lifting tackle is "
        "suspended from a pivoted boom that rotates around a vertical axis",
        "WordNet does not know 1 names: zzz",
        "2 words that name or mean something else too were left out (--json lists them)",
    ]
    report = json.loads(said.out)
    assert report["unknown"] == ["zzz"]
    assert report["ambiguous"][0]["others"][0]["synset"] == "crane.n.05"
    assert {word["word"] for word in report["left_out"]} == {"machine", "lounge"}


def test_kinds(tmp_path: Path, capsys: pytest.CaptureFixture[str], has_wordnet: None) -> None:
    out = tmp_path / "o.yaml"
    arguments = ["expand", "coco", "--hyponyms", "cat.n.01", "--hyponyms", "animal.n.01"]
    assert cli.run([*arguments, "--depth", "1", "--out", str(out)]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "cat.n.01: 2 added"
    assert lines[1].startswith("animal.n.01: ")
    assert load_vocabulary(out).categories[80].parent == "cat"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "Error: Nothing is asked to be added to coco."),
        (["--depth", "2"], 2, "Error: --depth is for --hyponyms."),
        (["--flatten"], 1, "Error: Vocabulary 'coco' has no attributes to multiply by."),
        (["--attributes", "coco"], 1, "coco.yaml holds no attributes."),
        (["--attributes", "no.yaml"], 1, "Error: There is no file no.yaml."),
        (["--attributes", "colours", "--out", "x.txt"], 1, "Error: x.txt has the suffix '.txt'"),
        (
            ["--attributes", "colours", "--out", "x.csv"],
            1,
            "Error: x.csv: CSV holds no attributes.",
        ),
    ],
)
def test_what_cannot_be_done_is_said_and_nothing_written(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.run(["expand", "coco", "--out", "x.yaml", *arguments]) == code
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_synset_says_what_is_near(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], has_wordnet: None
) -> None:
    arguments = ["expand", "coco", "--hyponyms", "sofa", "--out", str(tmp_path / "x.yaml")]
    assert cli.run(arguments) == 1
    assert capsys.readouterr().err.splitlines() == [
        "Error: WordNet 3.0 has no noun 'sofa'.",
        "Hint: 'sofa' can be sofa.n.01 (an upholstered seat for more than one person).",
    ]


def test_an_existing_file_is_kept_unless_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mine.yaml"
    out.write_text("mine")
    arguments = ["expand", "coco", "--attributes", "colours", "--out", str(out)]
    assert cli.run(arguments) == 1
    assert capsys.readouterr().err.splitlines()[0] == f"Error: {out} is there already."
    assert out.read_text() == "mine"
    assert cli.run([*arguments, "--force"]) == 0
    assert len(load_vocabulary(out)) == 80


def test_without_wordnet_attributes_work_and_the_rest_says_what_to_install(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], no_wordnet: None
) -> None:
    out = str(tmp_path / "o.yaml")
    assert cli.run(["expand", "coco", "--attributes", "colours", "--out", out]) == 0
    capsys.readouterr()
    for option in (["--synonyms"], ["--hypernyms"], ["--species", "cub200"], ["--hyponyms", "x"]):
        assert cli.run(["expand", "coco", *option, "--out", out, "--force"]) == 1
        assert capsys.readouterr().err.splitlines() == [
            "Error: WordNet is not here.",
            "Hint: Install it with 'apt-get install wordnet-base', or fetch it once: "
            "vildcli fetch wordnet",
        ]


def test_too_many_for_yaml(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "many.txt").write_text("\n".join(f"thing {n}" for n in range(9_091)))
    arguments = ["expand", str(tmp_path / "many.txt"), "--attributes", "colours", "--flatten"]
    assert cli.run([*arguments, "--out", str(tmp_path / "o.yaml")]) == 1
    assert capsys.readouterr().err.splitlines() == [
        "Error: 100,001 categories are too many for YAML, which is slow to read back.",
        "Hint: --out o.json",
    ]
    assert cli.run([*arguments, "--out", str(tmp_path / "o.json")]) == 0


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells the peak memory")
def test_a_million_joint_names_stay_within_a_gibibyte(tmp_path: Path) -> None:
    (tmp_path / "many.txt").write_text("\n".join(f"thing {n}" for n in range(10_000)))
    (tmp_path / "how.txt").write_text("\n".join(f"how{n}" for n in range(100)))
    arguments = ["expand", "many.txt", "--attributes", "how.txt", "--flatten", "--out", "o.json"]
    # Not ru_maxrss, which begins with the memory of the process that forked this one.
    code = (
        f"from vildcli.cli import run; assert run({arguments}) == 0; "
        "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert int(found.stdout) < 2**20  # KiB
    with (tmp_path / "o.json").open() as file:
        assert sum(line.startswith(' {"id"') for line in file) == 1_000_000
