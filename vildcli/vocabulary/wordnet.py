"""WordNet, the English dictionary of meanings, read through nltk. Only expanding needs it.

It is looked for in nltk's data folders, in vildcli's cache folder (`vildcli fetch wordnet`), and
where Debian's package wordnet-base puts it. Names are written as people do, with spaces.
"""

from __future__ import annotations

import difflib
import hashlib
import io
import threading
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from string import ascii_lowercase
from typing import Any

from vildcli.assets import cache_folder
from vildcli.errors import MissingDependencyError, VocabularyError

DEBIAN_FOLDER = Path("/usr/share/wordnet")
DOWNLOAD = "https://raw.githubusercontent.com/nltk/nltk_data/gh-pages/packages/corpora/wordnet.zip"
_INSIDE = "corpora/wordnet"  # of an nltk data folder
_HINT = "Install it with 'apt-get install wordnet-base', or fetch it once: vildcli fetch wordnet"

# Debian's package lacks the file `lexnames`: its numbered fields, from the page lexnames(5WN).
_FIELDS = (
    ("adj", 3, "all pert"),
    ("adv", 4, "all"),
    (
        "noun",
        1,
        "Tops act animal artifact attribute body cognition communication event feeling food group "
        "location motive object person phenomenon plant possession process quantity relation shape "
        "state substance time",
    ),
    (
        "verb",
        2,
        "body change cognition communication competition consumption contact creation emotion "
        "motion perception possession social stative weather",
    ),
    ("adj", 3, "ppl"),
)

_loading = threading.Lock()


@dataclass(frozen=True, slots=True)
class Sense:
    """One meaning.

    Attributes:
        synset: WordNet's name of it, such as `robin.n.01`.
        lemmas: its words, the usual one first: robin, redbreast, Erithacus rubecola.
        field: the part of the dictionary it stands in: animal, artifact, food, …
    """

    synset: str
    lemmas: tuple[str, ...]
    definition: str
    field: str


class WordNet:
    """The nouns of a loaded WordNet. Not for several threads at once: it reads from open files."""

    def __init__(self, reader: Any) -> None:
        self._reader = reader
        self.version: str = reader.get_version()

    @property
    def fingerprint(self) -> str:
        """Hash of its nouns: distributions of one version differ in small corrections."""
        with self._reader.root.join("data.noun").open() as file:
            return hashlib.sha256(file.read()).hexdigest()[:16]

    def find(self, synset: str) -> Sense | None:
        """The noun of that name, or None. Another lemma's name of it gives the usual one."""
        found = self._synset(synset)
        return None if found is None else _sense(found)

    def sense(self, synset: str) -> Sense:
        """The noun of that name.

        Raises:
            VocabularyError: there is none; the hint names near ones.
        """
        found = self.find(synset)
        if found is None:
            raise VocabularyError(
                f"WordNet {self.version} has no noun '{synset}'.", hint=self._near(synset)
            )
        return found

    def senses(self, name: str) -> tuple[Sense, ...]:
        """The meanings of a noun, plural forms too, the most frequent first; no individuals."""
        word = name.strip().replace(" ", "_").lower()
        found = self._reader.synsets(word, pos="n") if word else []
        return tuple(dict.fromkeys(_sense(s) for s in found if not s.instance_hypernyms()))

    def singular(self, name: str) -> str | None:
        """The form that the dictionary lists; the name itself where it is listed."""
        found = self._reader.morphy(name.strip().replace(" ", "_").lower(), "n")
        return None if found is None else _spaced(found)

    def respelt(self, name: str) -> list[str]:
        """Nouns that are the name with one letter more or less, or two exchanged."""
        word = name.strip().replace(" ", "_").lower()
        cuts = [(word[:i], word[i:]) for i in range(len(word) + 1)]
        edits = {head + letter + tail for head, tail in cuts for letter in ascii_lowercase}
        edits |= {head + tail[1:] for head, tail in cuts}
        edits |= {head + tail[1] + tail[0] + tail[2:] for head, tail in cuts if len(tail) > 1}
        return sorted(_spaced(edit) for edit in edits if len(word) > 3 and self._has(edit))

    def _has(self, lemma: str) -> bool:
        return bool(self._reader._lemma_pos_offset_map.get(lemma, {}).get("n"))

    def frequency(self, sense: Sense, name: str) -> int:
        """How often a word had that meaning in the texts that WordNet counted: mostly 0."""
        forms = {match for match in (name.lower(), self.singular(name)) if match}
        lemmas = self._synset(sense.synset).lemmas()
        return max((n.count() for n in lemmas if _spaced(n.name()).lower() in forms), default=0)

    def kinds(self, synset: str) -> tuple[Sense, ...]:
        """What is a kind of it, one level down, by name."""
        return _by_name(self._synset(synset).hyponyms())

    def wider(self, synset: str) -> tuple[Sense, ...]:
        """What it is a kind of, one level up, the most specific first."""
        found = self._synset(synset).hypernyms()
        return tuple(_sense(s) for s in sorted(found, key=lambda s: (-s.max_depth(), s.name())))

    def above(self, synset: str) -> tuple[Sense, ...]:
        """All that it is a kind of, on every way up, by name."""
        return _by_name(set(self._synset(synset).closure(lambda s: s.hypernyms())))

    def members(self, synset: str) -> tuple[Sense, ...]:
        """The members of a group, such as the species of a genus, by name."""
        return _by_name(self._synset(synset).member_meronyms())

    def below(self, synset: str) -> Iterator[tuple[int, Sense, Sense]]:
        """Its kinds and theirs: (levels down, kind, what it is a kind of), nearest first."""
        level, seen = [self.sense(synset)], {synset}
        depth = 0
        while level:
            depth += 1
            found = [(kind, wider) for wider in level for kind in self.kinds(wider.synset)]
            level = []
            for kind, wider in found:
                if kind.synset not in seen:
                    seen.add(kind.synset)
                    level.append(kind)
                    yield depth, kind, wider

    def _synset(self, name: str) -> Any:
        from nltk.corpus.reader.wordnet import WordNetError

        lemma, _, rest = name.rpartition(".n.")
        if not lemma or not rest.isdecimal() or int(rest) < 1:
            return None
        try:
            return self._reader.synset(name)
        except WordNetError:
            return None

    def _near(self, synset: str) -> str:
        """What was meant: the other senses of that word, or words spelt nearly so."""
        word = synset.split(".")[0].strip().replace(" ", "_").lower()
        if known := self.senses(word):
            listed = "; ".join(f"{s.synset} ({s.definition})" for s in known[:4])
            return f"'{word}' can be {listed}."
        lemmas = (s for s in self._reader.all_lemma_names(pos="n") if s[:1] == word[:1])
        near = difflib.get_close_matches(word, lemmas, n=3, cutoff=0.75)
        meant = [s.synset for n in near for s in self.senses(n)[:1] if s.synset.startswith(f"{n}.")]
        listed = f"Did you mean {' or '.join(meant)}? " if meant else ""
        return f"{listed}A synset is written as apple.n.01."


def load_wordnet() -> WordNet:
    """Load WordNet at once and whole; a second call gives the same one.

    Raises:
        MissingDependencyError: it is nowhere, or not readable.
    """
    with _loading:
        return _load()


def fetched_file() -> Path:
    """Where `vildcli fetch wordnet` puts it."""
    return _own_data_folder() / f"{_INSIDE}.zip"


def download_wordnet() -> Path:
    """Download WordNet into the cache folder, checked against nltk's list.

    Raises:
        MissingDependencyError: no network, or a download that is not what it should be.
    """
    from nltk.downloader import Downloader

    folder = _own_data_folder()
    folder.mkdir(parents=True, exist_ok=True)
    said = io.StringIO()
    try:
        Downloader().download(
            "wordnet",
            download_dir=str(folder),
            quiet=True,
            raise_on_error=True,
            print_error_to=said,
            extract=False,
        )
    except (ValueError, OSError) as error:
        reason = str(error).removeprefix("Error loading wordnet: ")
        raise MissingDependencyError(
            f"WordNet cannot be downloaded: {reason}.",
            hint=f"Where there is a network, get {DOWNLOAD} and copy it to {fetched_file()}",
        ) from error
    return fetched_file()


@lru_cache(maxsize=1)
def _load() -> WordNet:
    try:
        import nltk
        from nltk.corpus.reader.wordnet import WordNetCorpusReader, WordNetError
    except ImportError as error:
        raise MissingDependencyError(
            "nltk, which reads WordNet, is not installed.", hint="pip install 'nltk>=3.10'"
        ) from error

    class Reader(WordNetCorpusReader):  # type: ignore[misc]
        """Needs neither Debian's missing file nor the tables of other languages."""

        def open(self, file: str) -> Any:
            return io.StringIO(_lexnames()) if file == "lexnames" else super().open(file)

        def map_wn(self, version: str = "wordnet") -> None:
            return None

    root = _find_data(nltk)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The multilingual functions")
            return WordNet(Reader(root, None))
    except (OSError, WordNetError, AssertionError, ValueError) as error:
        raise MissingDependencyError(
            f"{root} holds no readable WordNet: {error}.", hint=_HINT
        ) from error


def _find_data(nltk: Any) -> Any:
    """Its place, among those that nltk may read: its own folders, ours, Debian's."""
    for folder in (_own_data_folder(), DEBIAN_FOLDER):
        if folder.is_dir() and str(folder) not in nltk.data.path:
            nltk.data.path.append(str(folder))
    for name in (_INSIDE, f"{_INSIDE}.zip/wordnet/"):
        try:
            return nltk.data.find(name)
        except LookupError:
            continue
    if (DEBIAN_FOLDER / "data.noun").is_file():
        return str(DEBIAN_FOLDER)
    raise MissingDependencyError("WordNet is not here.", hint=_HINT)


def _own_data_folder() -> Path:
    return cache_folder() / "nltk_data"


def _lexnames() -> str:
    names = [f"{word}.{f}\t{part}" for word, part, fields in _FIELDS for f in fields.split()]
    return "".join(f"{number:02d}\t{name}\n" for number, name in enumerate(names))


def _sense(synset: Any) -> Sense:
    lemmas = tuple(map(_spaced, synset.lemma_names()))
    return Sense(synset.name(), lemmas, synset.definition(), synset.lexname().partition(".")[2])


def _spaced(lemma: str) -> str:
    return lemma.replace("_", " ")


def _by_name(synsets: Iterable[Any]) -> tuple[Sense, ...]:
    return tuple(_sense(s) for s in sorted(synsets, key=lambda s: str(s.name())))
