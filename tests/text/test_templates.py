from __future__ import annotations

import itertools
import os
from pathlib import Path

import open_clip
import pytest

from vildcli.errors import VocabularyError
from vildcli.text.templates import Prompts, fill, load_prompts

SHARED = Path(os.environ.get("VILDCLI_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))


@pytest.mark.parametrize(
    ("template", "name", "sentence"),
    [
        ("a photo of {article} {}.", "apple", "This is a photo of an apple."),
        ("a photo of {article} {}.", "Apple", "This is a photo of a apple."),
        ("the {}.", "bat_(animal)", "This is the bat (animal)."),
        ("an embroidered {}.", "cat", "This is an embroidered cat."),
        ("itap of my {}.", "CD_player", "itap of my cd player."),
        ("There is {article} {} in the scene.", "hour", "There is a hour in the scene."),
        ("a toy {}.", "Cabinet/shelf", "This is a toy cabinet or shelf."),
        ("a toy {}.", "etc.", "This is a toy etc."),
        ("a toy {}.", "{article} {}", "This is a toy {article} {}."),
    ],
)
def test_fill_follows_the_published_demo(template, name, sentence):
    assert fill(template, name) == sentence


def test_fill_can_leave_the_sentence_alone():
    assert fill("a photo of {article} {}.", "egg", this_is=False) == "a photo of an egg."


@pytest.mark.parametrize(
    ("name", "count", "this_is"),
    [
        ("vild-63", 63, True),
        ("clip-80", 80, False),
        ("single", 1, True),
        ("detpro-74", 74, False),
        ("ezsd", 1, False),
    ],
)
def test_shipped_prompts(name, count, this_is):
    prompts = load_prompts(name)
    assert (prompts.name, prompts.this_is) == (name, this_is)
    assert len(set(prompts.templates)) == count


def test_vild_s_58_sentences_begin_with_this_is():
    sentences = load_prompts("vild-63").sentences("ape")
    assert sum(s.startswith("This is ") for s in sentences) == 58
    assert sum(" an ape" in s for s in sentences) == 15


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no shared data at {SHARED}")
def test_vild_s_templates_are_the_published_ones_in_order():
    published = (SHARED / "prompts" / "vild_63.txt").read_text().splitlines()
    assert list(load_prompts("vild-63").templates) == published


def test_clip_s_templates_are_open_clip_s():
    theirs = [template("{}") for template in open_clip.OPENAI_IMAGENET_TEMPLATES]
    assert list(load_prompts("clip-80").templates) == theirs
    assert load_prompts("clip-80").sentences("cat")[0] == "a bad photo of a cat."


def detpros_templates() -> list[str]:
    """DetPro's list, put together from its patterns: sizes outside, determiners inside."""
    found = ["This is a {}", "There is a {}"]
    sizes, determiners = ("", "small ", "medium ", "large "), ("a", "the", "one")
    patterns = (
        "a photo of a {}{{}} in the scene",
        "a photo of a {}{{}}",
        "This is a photo of a {}{{}}",
    )
    for pattern in patterns:
        found += [pattern.format(size) for size in sizes]
    for verb in ("There is", "This is"):
        found += [f"{verb} {determiner} {{}} in the scene" for determiner in determiners]
    for start in ("This is one", "There is a"):
        found += [f"{start} {size}{{}} in the scene" for size in sizes if size]
    for verb, medium in itertools.product(("There is", "This is"), ("photo", "picture")):
        for size, determiner in itertools.product(sizes, determiners):
            found.append(f"{verb} {determiner} {size}{{}} in the {medium}")
    return found


def test_detpros_templates_are_its_own_in_order():
    prompts = load_prompts("detpro-74")
    assert list(prompts.templates) == detpros_templates()
    assert len(prompts.templates) == 74
    assert (prompts.raw_names, prompts.synonyms) == (True, False)


def test_detpros_names_are_as_lvis_spells_them():
    sentences = load_prompts("detpro-74").sentences("bat_(animal)")
    assert sentences[0] == "This is a bat_(animal)"
    assert sentences[5] == "a photo of a large bat_(animal) in the scene"
    assert load_prompts("detpro-74").sentences("Apple.")[0] == "This is a Apple."
    assert not any(s.startswith("This is a photo of an") for s in sentences)


def test_an_own_file_is_used_as_it_stands(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("# mine\n\na picture of {article} {}\n", encoding="utf-8")
    prompts = load_prompts(str(path))
    assert prompts == Prompts("mine", ("a picture of {article} {}",))
    assert prompts.sentences("owl") == ["a picture of an owl"]


def test_the_fingerprint_is_of_the_sentences():
    prompts = Prompts("a", ("x {}",))
    assert prompts.fingerprint == Prompts("b", ("x {}",)).fingerprint
    assert prompts.fingerprint != Prompts("a", ("x {}",), this_is=True).fingerprint
    assert prompts.fingerprint != Prompts("a", ("x {}.",)).fingerprint
    assert prompts.fingerprint != Prompts("a", ("x {}",), raw_names=True).fingerprint
    assert prompts.fingerprint != Prompts("a", ("x {}",), synonyms=False).fingerprint


@pytest.mark.parametrize(
    ("name", "fingerprint"),
    [
        ("vild-63", "115c3832a08f90f5"),
        ("clip-80", "7bb8b76a6e1e1027"),
        ("single", "7f8acda93dc69f78"),
    ],
)
def test_fingerprints_hold_from_version_to_version(name, fingerprint):
    """Runs and caches of older versions are told by them."""
    assert load_prompts(name).fingerprint == fingerprint


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"a photo of a cat.\n",
            "{path}, line 1: the template 'a photo of a cat.' has no {{}} for the name.",
        ),
        (b"# nothing\n", "{path} holds no template."),
        (b"\xff{}", "{path} is not UTF-8 text."),
    ],
)
def test_broken_prompts_are_refused(tmp_path, content, message):
    path = tmp_path / "p.txt"
    path.write_bytes(content)
    with pytest.raises(VocabularyError) as error:
        load_prompts(path)
    assert str(error.value) == message.format(path=path)
