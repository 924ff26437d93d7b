from __future__ import annotations

import hashlib
import io
import shutil
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.error import URLError

import pytest
from wordnet_places import forget_wordnet, wordnet_only_in

from vildcli import cli
from vildcli.errors import MissingDependencyError, VocabularyError
from vildcli.vocabulary import wordnet as module
from vildcli.vocabulary.wordnet import Sense, WordNet, load_wordnet


def names(senses: tuple[Sense, ...]) -> list[str]:
    return [sense.synset for sense in senses]


def test_a_sense_has_words_a_definition_and_a_field(wordnet: WordNet) -> None:
    assert wordnet.find("robin.n.01") == Sense(
        "robin.n.01",
        ("robin", "redbreast", "robin redbreast", "Old World robin", "Erithacus rubecola"),
        "small Old World songbird with a reddish breast",
        "animal",
    )
    assert wordnet.version == "3.0"
    assert len(wordnet.fingerprint) == 16


def test_fields_are_numbered_as_wordnet_numbers_them(wordnet: WordNet) -> None:
    expected = {"dog.n.01": "animal", "sofa.n.01": "artifact", "pizza.n.01": "food"}
    expected |= {"entity.n.01": "Tops", "noon.n.01": "time", "oak.n.02": "plant"}
    assert {s: wordnet.sense(s).field for s in expected} == expected


def test_another_lemmas_name_of_a_sense_gives_the_usual_one(wordnet: WordNet) -> None:
    assert wordnet.sense("couch.n.01").synset == "sofa.n.01"


def test_senses_are_in_order_of_frequency_and_know_plurals(wordnet: WordNet) -> None:
    assert names(wordnet.senses("mouse"))[0] == "mouse.n.01"
    assert names(wordnet.senses("Street Signs")) == ["street_sign.n.01"]
    assert "crane.n.01" not in names(wordnet.senses("crane"))  # Stephen Crane, a person
    assert wordnet.senses("") == wordnet.senses("🦆") == wordnet.senses("ברווז") == ()


def test_singular(wordnet: WordNet) -> None:
    found = [wordnet.singular(name) for name in ("sneakers", "Scissors", "street lights")]
    assert found == ["sneaker", "scissors", None]


def test_up_and_down(wordnet: WordNet) -> None:
    assert names(wordnet.wider("dog.n.01")) == ["canine.n.02", "domestic_animal.n.01"]
    kinds = names(wordnet.kinds("bird.n.01"))
    assert len(kinds) == 26
    assert kinds == sorted(kinds)
    assert names(wordnet.members("geococcyx.n.01")) == ["roadrunner.n.01"]


def test_below_gives_every_kind_once_with_what_it_is_a_kind_of(wordnet: WordNet) -> None:
    found = list(wordnet.below("bird.n.01"))
    assert len(found) == 871
    assert len({kind.synset for _, kind, _ in found}) == 871
    depths = [depth for depth, _, _ in found]
    assert depths == sorted(depths)
    for depth, kind, wider in found:
        assert wider.synset in names(wordnet.wider(kind.synset))
        assert (wider.synset == "bird.n.01") == (depth == 1)


@pytest.mark.parametrize(
    ("synset", "hint"),
    [
        ("sofa.n.7", "'sofa' can be sofa.n.01 (an upholstered seat for more than one person)."),
        ("sofa", "'sofa' can be sofa.n.01 (an upholstered seat for more than one person)."),
        ("sofa.v.01", "'sofa' can be sofa.n.01 (an upholstered seat for more than one person)."),
        ("soofa.n.01", "Did you mean sofa.n.01? A synset is written as apple.n.01."),
        ("sofa.n.", "'sofa' can be sofa.n.01 (an upholstered seat for more than one person)."),
        ("", "A synset is written as apple.n.01."),
        ("🦆.n.01", "A synset is written as apple.n.01."),
    ],
)
def test_an_unknown_synset_is_refused_with_what_is_near(
    wordnet: WordNet, synset: str, hint: str
) -> None:
    assert wordnet.find(synset) is None
    with pytest.raises(VocabularyError) as error:
        wordnet.sense(synset)
    assert str(error.value) == f"WordNet 3.0 has no noun '{synset}'."
    assert error.value.hint == hint


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    with wordnet_only_in(tmp_path):
        yield tmp_path


@pytest.fixture
def files(wordnet: WordNet) -> list[Path]:
    folder = Path(str(wordnet._reader.root))
    if not folder.is_dir():
        pytest.skip("WordNet is inside an archive here")
    return [path for path in folder.iterdir() if path.is_file()]


def test_without_wordnet_the_error_says_where_to_get_it(elsewhere: Path) -> None:
    with pytest.raises(MissingDependencyError) as error:
        load_wordnet()
    assert str(error.value) == "WordNet is not here."
    assert error.value.hint == (
        "Install it with 'apt-get install wordnet-base', or fetch it once: vildcli fetch wordnet"
    )


@pytest.mark.parametrize(
    "place", ["debian", "nltk/corpora/wordnet", "cache/nltk_data/corpora/wordnet"]
)
def test_it_is_found_in_each_of_its_places(elsewhere: Path, files: list[Path], place: str) -> None:
    (elsewhere / place).mkdir(parents=True)
    for file in files:
        shutil.copyfile(file, elsewhere / place / file.name)
    assert load_wordnet().sense("sofa.n.01").lemmas == ("sofa", "couch", "lounge")


def test_a_damaged_folder_is_named(elsewhere: Path) -> None:
    (elsewhere / "debian").mkdir()
    (elsewhere / "debian" / "data.noun").write_text("not a dictionary\n")
    with pytest.raises(MissingDependencyError) as error:
        load_wordnet()
    assert str(error.value).startswith(f"{elsewhere / 'debian'} holds no readable WordNet: ")


def test_many_threads_load_one_wordnet(wordnet: WordNet) -> None:
    forget_wordnet()
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: load_wordnet(), range(4)))
    assert all(one is found[0] for one in found)


def serve(
    monkeypatch: pytest.MonkeyPatch, archive: bytes, *, digest: str | None = None
) -> list[str]:
    """A network that holds nltk's list and one archive; what was asked of it."""
    asked: list[str] = []
    digest = digest or hashlib.sha256(archive).hexdigest()
    index = (
        '<nltk_data><packages><package id="wordnet" subdir="corpora" unzip="0" unzipped_size="1" '
        f'size="{len(archive)}" sha256_checksum="{digest}" url="{module.DOWNLOAD}" /></packages>'
        "<collections /></nltk_data>"
    )

    def urlopen(address: str, **options: object) -> io.BytesIO:
        asked.append(address)
        return io.BytesIO(archive if address == module.DOWNLOAD else index.encode())

    monkeypatch.setattr("nltk.downloader.urlopen", urlopen)
    return asked


@pytest.mark.slow
def test_fetch_downloads_it_once_and_it_is_found(
    elsewhere: Path,
    files: list[Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as zipped:
        for file in files:
            zipped.write(file, f"wordnet/{file.name}")
    asked = serve(monkeypatch, archive.getvalue())
    assert cli.run(["fetch", "wordnet", "--dry-run"]) == 0
    assert f"wordnet  missing  {module.fetched_file()}" in capsys.readouterr().err
    assert asked == []
    assert cli.run(["fetch", "wordnet"]) == 0
    assert module.DOWNLOAD in asked
    assert load_wordnet().sense("sofa.n.01").lemmas == ("sofa", "couch", "lounge")
    asked.clear()
    assert cli.run(["fetch", "wordnet"]) == 0
    assert "wordnet: already there" in capsys.readouterr().err
    assert asked == []


def test_a_download_that_is_not_what_it_should_be_is_refused(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    serve(monkeypatch, b"something else", digest="0" * 64)
    assert cli.run(["fetch", "wordnet"]) == 1
    assert "Error: WordNet cannot be downloaded: " in capsys.readouterr().err
    assert not module.fetched_file().exists()


def test_without_a_network_fetch_says_where_to_put_the_file(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(address: str, **options: object) -> None:
        raise URLError("no route")

    monkeypatch.setattr("nltk.downloader.urlopen", refuse)
    assert cli.run(["fetch", "wordnet"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[-2:] == [
        "Error: WordNet cannot be downloaded: <urlopen error no route>.",
        f"Hint: Where there is a network, get {module.DOWNLOAD} "
        f"and copy it to {module.fetched_file()}",
    ]
