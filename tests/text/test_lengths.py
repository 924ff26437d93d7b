from __future__ import annotations

from types import SimpleNamespace

from vildcli.text.lengths import prompt_lengths
from vildcli.text.open_clip_models import simple_tokenizer
from vildcli.text.templates import Prompts, load_prompts
from vildcli.vocabulary.category import Category


def test_lengths_are_those_of_the_longest_prompt_of_the_tokenizer_itself() -> None:
    tokenizer, prompts = simple_tokenizer(77), load_prompts("vild-63")
    categories = [Category(1, "sofa", synonyms=("couch", "love_seat")), Category(2, "bat_(animal)")]
    found = prompt_lengths(categories, tokenizer, prompts)
    assert [(category, name) for category, name, _ in found] == [
        ("sofa", "sofa"),
        ("sofa", "couch"),
        ("sofa", "love_seat"),
        ("bat_(animal)", "bat_(animal)"),
    ]
    for _, name, tokens in found:
        read = tokenizer(prompts.sentences(name))
        assert tokens == int((read != 0).sum(dim=1).max())


def test_a_name_that_would_be_cut_is_counted_whole() -> None:
    name = " ".join(["word"] * 80)
    ((_, _, tokens),) = prompt_lengths(
        [Category(1, name)], simple_tokenizer(77), Prompts("bare", ("{}",))
    )
    assert tokens == 82


def test_tokenizers_of_hugging_face_count_their_own() -> None:
    theirs = SimpleNamespace(
        tokenizer=lambda text: SimpleNamespace(input_ids=[0, *map(len, text.split()), 1])
    )
    found = prompt_lengths([Category(1, "prickly pear")], theirs, Prompts("p", ("{}", "a {} here")))
    assert found == [("prickly pear", "prickly pear", 6)]
