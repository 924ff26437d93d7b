"""`vildcli ask`: free texts against the regions of an image, or of a whole run."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vildcli import console
from vildcli.errors import NothingToDoError, RunError, VildError

if TYPE_CHECKING:
    from vildcli.labelling.ask import AskedRegion
    from vildcli.labelling.options import LabellingOptions
    from vildcli.labelling.search import FoundRegion

EXAMPLE = """\
\b
Examples:
  vildcli ask photo.jpg --model runs/lvis --text "a husky; a shiba inu"
  vildcli ask runs/photos --text "a red umbrella"
  vildcli ask runs/photos --like day1/beach.jpg#120,80,260,300
"""
SHOWN = 10  # rows of a run's table
_FOR_IMAGES = ("vocab", "classes", "proposals", "regions", "device")
_FOR_RUNS = ("like", "images")
_Answer = Callable[[tuple[str, ...]], dict[str, Any]]


def _place(
    ctx: click.Context, parameter: click.Parameter, value: str | None
) -> tuple[str, tuple[float, ...]] | None:
    """IMAGE#x1,y1,x2,y2."""
    if value is None:
        return None
    path, _, corners = value.rpartition("#")
    try:
        box = tuple(float(corner) for corner in corners.split(","))
    except ValueError:
        box = ()
    if not path or len(box) != 4:
        raise click.BadParameter(f"{value!r} is not IMAGE#x1,y1,x2,y2.")
    return path, box


@click.command(epilog=EXAMPLE)
@click.argument("subject", type=click.Path(exists=True, path_type=Path), metavar="IMAGE|RUN")
@click.option("--text", metavar="TEXTS", help='"a; b; c".  [default: lines that you type]')
@click.option(
    "--like",
    callback=_place,
    metavar="IMAGE#BOX",
    help="Of a run: regions like the one at x1,y1,x2,y2 of an image of it.",
)
@click.option(
    "--softmax",
    is_flag=True,
    help="Shares of the texts, which add up to 1, instead of cosines.",
)
@click.option(
    "--objectness",
    type=click.FloatRange(0, 1),
    help="Least objectness of a region.  [default: 0.9; of a run 0]",
)
@click.option(
    "--top", type=click.IntRange(min=1), metavar="N", help="Regions.  [default: 25; of a run 24]"
)
@click.option(
    "--model",
    metavar="MODEL",
    help="A model file, a training run, or clip-on-crops, which is the default; of a run: where"
    " its model has moved.",
)
@click.option("--teacher", metavar="T", help="open_clip model, as for detect.")
@click.option(
    "--proposals", metavar="P", help="Boxes of clip-on-crops.  [default: torchvision's detector]"
)
@click.option("--regions", type=click.IntRange(min=1), metavar="N", help="As for detect.")
@click.option(
    "--vocab", metavar="V", help="Names to show beside.  [default: the model's base categories]"
)
@click.option("--classes", metavar="NAMES", help='Names with commas between: "apple, pear".')
@click.option(
    "--prompts",
    metavar="P",
    help="Sentences for the texts and the names beside.  [default: one for texts]",
)
@click.option("--device", metavar="D", help="cpu, cuda, cuda:1, mps.  [default: the best]")
@click.option("--offline", is_flag=True, help="Never use the network.")
@click.option(
    "--images",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder that a run's images have moved to.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="The picture.  [default: runs/ask/IMAGE.png, RUN/ask.png]",
)
@click.option("--force", is_flag=True, help="Overwrite an existing picture.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a question.")
def command(
    subject: Path, text: str | None, out: Path | None, force: bool, as_json: bool, **choices: Any
) -> int:
    """Score any texts on the regions of IMAGE, or find regions in RUN (detect --keep-regions).

    Texts are compared by cosine. Type them with ; between; an empty line ends.
    """
    if out and out.exists() and not force:
        raise RunError(f"{out} exists.", hint="Choose another --out, or --force to overwrite it.")
    of_run = subject.is_dir()
    _refuse(choices, _FOR_IMAGES if of_run else _FOR_RUNS, subject)
    if choices["like"]:
        if text is not None or choices["softmax"]:
            raise click.UsageError("--like takes neither --text nor --softmax.")
        answers: Iterator[dict[str, Any]] = iter([_find_like(subject, out, choices)])
    else:
        ask: Callable[[Path, Path | None, Mapping[str, Any]], _Answer]
        ask = _ask_run if of_run else _ask_image
        answers = _answers(ask(subject, out, choices), text, choices["softmax"])
    for given in answers:
        console.say(f"Picture: {given['picture']}")
        if as_json:
            click.echo(json.dumps({**given, "picture": str(given["picture"].absolute())}))
    return 0


def _refuse(choices: Mapping[str, Any], names: Sequence[str], subject: Path) -> None:
    for name in names:
        if choices[name] is not None:
            kind = "a run" if name in _FOR_IMAGES else "an image"
            raise click.UsageError(f"--{name} is of no use: {subject} is {kind}.")


def _answers(answer: _Answer, text: str | None, softmax: bool) -> Iterator[dict[str, Any]]:
    """One answer to `--text`, or one to each line that is typed or piped in."""
    from vildcli.labelling.ask import split_texts

    if text is not None:
        if not (texts := split_texts(text)):
            raise click.UsageError('--text holds no text; write for example "red; blue".')
        if softmax and len(texts) == 1:
            console.warn("The share of a single text is 1 everywhere.")
        yield answer(texts)
        return
    lines = sys.stdin
    if lines.isatty():
        console.say("Type texts with ; between; an empty line ends.")
    while True:
        if lines.isatty():
            click.echo("> ", nl=False, err=True)
        if not (texts := split_texts(lines.readline())):
            return
        try:
            yield answer(texts)
        except VildError as error:  # a word that cannot be read does not end the conversation
            console.show_error(str(error), error.hint)


def _options(choices: Mapping[str, Any]) -> LabellingOptions:
    from vildcli.labelling.options import LabellingOptions

    names = ("model", "teacher", "proposals", "regions", "prompts", "device", "offline")
    return LabellingOptions(**{name: choices[name] for name in names if choices[name] is not None})


def _ask_image(path: Path, out: Path | None, choices: Mapping[str, Any]) -> _Answer:
    from vildcli.commands.detect import chosen_vocabulary
    from vildcli.commands.embed import warn_of_unread
    from vildcli.data.images import read_image
    from vildcli.labelling.ask import answer, find_regions
    from vildcli.labelling.model import open_asking_model
    from vildcli.review.question_sheet import draw_image_answer, write_answer

    pixels = read_image(path).pixels
    named = (choices["vocab"], choices["classes"])
    vocabulary = chosen_vocabulary(*named) if any(named) else None
    model = open_asking_model(vocabulary, _options(choices))
    found = find_regions(model, pixels, **_limits(choices, "objectness", limit="top"))
    if not len(found):
        raise NothingToDoError(
            f"No region of {path} is worth asking about: the surest has objectness "
            f"{found.highest_objectness:.2f}.",
            hint="Give a lower --objectness.",
        )
    picture = out or Path("runs", "ask", f"{path.stem}.png")

    def answer_texts(texts: tuple[str, ...]) -> dict[str, Any]:
        warn_of_unread(model.reader.unread(texts))
        regions = answer(found, model.reader.embed(texts), softmax=choices["softmax"])
        _show_regions(path, texts, regions)
        write_answer(draw_image_answer(path.name, pixels, texts, regions), picture)
        return {
            "image": str(path.absolute()),
            "texts": texts,
            "softmax": choices["softmax"],
            "regions": [_plain(region) for region in regions],
            "picture": picture,
        }

    return answer_texts


def _ask_run(run: Path, out: Path | None, choices: Mapping[str, Any]) -> _Answer:
    from vildcli.commands.embed import warn_of_unread
    from vildcli.labelling.ask import text_reader
    from vildcli.labelling.search import search_run
    from vildcli.labelling.words import open_stored_words
    from vildcli.runs import read_run

    read_run(run, "labelling")
    stored, words = open_stored_words(run, _options(choices))
    reader, head = (
        text_reader(words, choices["prompts"]),
        stored.head if choices["softmax"] else None,
    )

    def answer_texts(texts: tuple[str, ...]) -> dict[str, Any]:
        warn_of_unread(reader.unread(texts))
        queries = reader.embed(texts)
        with _searching(run) as advance:
            limits = _limits(choices, "objectness", "top")
            found = search_run(run, queries, head=head, advance=advance, **limits)
        answers = dict(zip(texts, found, strict=True))
        shown = _show_found(run, answers, out, choices["images"])
        return {"run": str(run.absolute()), "softmax": choices["softmax"], **shown}

    return answer_texts


def _find_like(run: Path, out: Path | None, choices: Mapping[str, Any]) -> dict[str, Any]:
    from vildcli.labelling.search import find_like, find_region
    from vildcli.runs import read_run

    read_run(run, "labelling")
    path, box = choices["like"]
    like = find_region(run, path, box)
    console.say(
        f"Like region {like.found.region} of {path}, whose box overlaps by {like.overlap:.2f}."
    )
    with _searching(run) as advance:
        found = find_like(run, like, advance=advance, **_limits(choices, "objectness", "top"))
    corners = ",".join(f"{corner:g}" for corner in box)
    shown = _show_found(run, {f"like {path}#{corners}": found}, out, choices["images"])
    return {"run": str(run.absolute()), "like": _plain(like.found), **shown}


def _limits(choices: Mapping[str, Any], *names: str, **renamed: str) -> dict[str, Any]:
    """The given ones of some choices; the others are left to the library."""
    chosen = {**{name: name for name in names}, **renamed}
    return {to: choices[name] for to, name in chosen.items() if choices[name] is not None}


def _searching(run: Path) -> AbstractContextManager[console.Advance]:
    from vildcli.labelling.records import done_units

    return console.progress("Searching", len(done_units(run)))


def _plain(region: AskedRegion | FoundRegion) -> dict[str, Any]:
    return {name: value for name, value in asdict(region).items() if name != "mask"}


def _show_regions(path: Path, texts: Sequence[str], regions: Sequence[AskedRegion]) -> None:
    named = regions[0].name is not None
    names = ("name", "score") if named else ()
    rows = [
        (place, r.objectness, *((r.name, r.name_score) if named else ()), *r.scores)
        for place, r in enumerate(regions, start=1)
    ]
    console.show_table(str(path), ("#", "objectness", *names, *texts), rows)


def _show_found(
    run: Path, answers: Mapping[str, Sequence[FoundRegion]], out: Path | None, images: Path | None
) -> dict[str, Any]:
    """Tables and picture of what was found of each question; returns what `--json` says."""
    from vildcli.labelling.plan import read_plan
    from vildcli.review.question_sheet import draw_run_answer, write_answer

    plan = read_plan(run)
    for question, found in answers.items():
        rows = [
            (r.score, plan[r.image_id - 1].path, ",".join(f"{x:.0f}" for x in r.box), r.objectness)
            for r in found[:SHOWN]
        ]
        console.show_table(question, ("score", "image", "box", "objectness"), rows)
    picture = out or run / "ask.png"
    write_answer(draw_run_answer(run, plan, answers, images), picture)
    return {
        "found": [
            {
                "question": question,
                "regions": [
                    {"path": plan[region.image_id - 1].path, **_plain(region)} for region in found
                ],
            }
            for question, found in answers.items()
        ],
        "picture": picture,
    }
