"""A labelling run as one page of HTML: counts, scores, pictures, what failed. No torch.

The run is read unit by unit, and pictures are cut out of a bounded number of images. What the page
does not show is said on it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vildcli.errors import RunError
from vildcli.labelling.thresholds import RunView, view_run
from vildcli.reporting import page
from vildcli.reporting.charts import histogram, small_histogram
from vildcli.reporting.findings import (
    Choice,
    DuplicateGroup,
    FoundDuplicates,
    read_calls,
    read_choice,
    read_duplicates,
)
from vildcli.reporting.pictures import Pictures, draw_pictures
from vildcli.reporting.tally import FAILURES, CategoryTally, Example, Tally, tally_run
from vildcli.runs import read_run, write_atomically

REPORT_FILE = "report.html"
CATEGORIES = 24  # with pictures
ROWS = 2_000  # of a table
VALUES = 30  # of an attribute set
CHOSEN = 12  # pictures of images to be reviewed
CALLS = 20
_OF_GROUP = 3  # pictures of images that show the same
_TOLD = {"best": "Surest", "worst": "Just above the threshold", "random": "By chance"}
_SETTINGS = (
    "system", "model", "teacher", "proposals", "text_encoder", "prompts", "context", "fusion",
    "nms", "regions", "tile", "floor", "max_det", "precision", "device",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ReportSummary:
    """What was written.

    Attributes:
        categories, pictured: with stored labels; shown with pictures.
        pictures: on the page.
        missing: images that pictures were wanted of and that could not be read.
        why: the first of these, in words.
    """

    out: Path
    bytes: int
    images: int
    labels: int
    categories: int
    pictured: int
    pictures: int
    missing: int
    why: str


@dataclass(frozen=True, slots=True)
class _Content:
    view: RunView
    header: dict[str, Any]
    tally: Tally
    pictured: tuple[int, ...]
    pictures: Pictures
    choice: Choice | None
    duplicates: FoundDuplicates
    calls: list[dict[str, Any]]


def write_report(
    run: Path,
    out: Path | None = None,
    *,
    conf: float | None = None,
    images_root: Path | None = None,
    categories: int = CATEGORIES,
) -> ReportSummary:
    """Write the report of a run, replacing what is there.

    Args:
        run: a labelling run, complete or not.
        out: default `report.html` in the run.
        conf: score from which labels are shown; default as `display_threshold`.
        images_root: folder that the images have moved to.
        categories: how many have pictures, those with most shown labels.

    Raises:
        RunError: `run` cannot be read, or `out` cannot be written.
        DataError: a record is damaged.
    """
    out = out or run / REPORT_FILE
    content = _gather(view_run(run, conf=conf), images_root, categories)

    def write(beside: Path) -> None:
        with beside.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(_page(content))

    try:
        write_atomically(out, write)
    except OSError as error:
        raise RunError(
            f"{out} cannot be written: {error.strerror or error}.", hint="Choose another --out."
        ) from error
    pictures = content.pictures
    return ReportSummary(
        out=out,
        bytes=out.stat().st_size,
        images=content.tally.images,
        labels=content.tally.shown,
        categories=len(content.tally.categories),
        pictured=len(content.pictured),
        pictures=len(pictures.crops) + len(pictures.images),
        missing=len(pictures.missing),
        why=next(iter(pictures.missing.values()), ""),
    )


def _gather(view: RunView, images_root: Path | None, categories: int) -> _Content:
    choice, duplicates = read_choice(view.run), read_duplicates(view)
    whole = [i for group in duplicates.groups for i in group.image_ids[:_OF_GROUP]]
    chosen = choice.image_ids if choice else ()
    tally = tally_run(view, chosen=chosen, wanted=(*whole, *chosen[:CHOSEN]))
    pictured = tuple(i for i in tally.ranked() if tally.categories[i].shown)[:categories]
    examples = [
        example
        for i in pictured
        for own in tally.categories[i].examples().values()
        for example in own
    ]
    places = {image_id: unit for image_id, (unit, _) in tally.places.items()}
    return _Content(
        view=view,
        header=read_run(view.run, "labelling"),
        tally=tally,
        pictured=pictured,
        pictures=draw_pictures(view, examples, places, images_root),
        choice=choice,
        duplicates=duplicates,
        calls=read_calls(view.run),
    )


def _page(content: _Content) -> Iterator[str]:
    view = content.view
    title = view.run.absolute().name
    yield page.head(f"{title} – vildcli report")
    yield f"<h1>{page.name(title)}</h1>\n"
    sources = ", ".join(content.header["arguments"].get("sources", {}).values())
    yield page.paragraph(f"Vocabulary {view.vocabulary.name}; images of {sources}", "faint")
    if not view.is_complete:
        yield page.paragraph(f"The run is not complete: {view.progress_text}.", "note")
    if missing := content.pictures.missing:
        reason = next(iter(missing.values()))
        images = f"{len(missing)} image{'s' * (len(missing) != 1)}"
        yield page.paragraph(f"{images} could not be shown. {reason}", "note")
    sections = _sections(content)
    links = (f'<a href="#{_anchor(name)}">{page.text(name)}</a>' for name in sections)
    yield f"<nav>{''.join(links)}</nav>\n"
    yield page.tiles(_facts(content))
    for name, parts in sections.items():
        yield page.heading(name, _anchor(name))
        yield from parts
    yield page.FOOT


def _sections(content: _Content) -> dict[str, Iterator[str]]:
    sections = {"Scores": _scores(content), "Categories": _categories(content)}
    if content.tally.attributes:
        sections["Attributes"] = _attributes(content)
    if content.choice is not None:
        sections["For review"] = _chosen(content, content.choice)
    return {
        **sections,
        "Duplicates": _duplicates(content),
        "Failures": _failures(content),
        "Speed": _speed(content),
        "How it was made": _making(content),
    }


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")


def _facts(content: _Content) -> Iterator[tuple[str, object]]:
    tally, duplicates = content.tally, content.duplicates
    yield "images", f"{tally.images:,}"
    yield "images with labels", f"{tally.labelled:,}"
    yield "labels shown", f"{tally.shown:,}"
    yield "labels stored", f"{tally.stored:,}"
    found = sum(row.shown > 0 for row in tally.categories.values())
    yield "categories found", f"{found:,} of {len(content.view.categories):,}"
    yield "images failed", f"{tally.failed:,}"
    yield "duplicate images", f"{duplicates.exact + duplicates.near:,}"
    if content.calls:
        yield "images a second", f"{content.calls[-1]['images_per_second']:.2f}"


def _scores(content: _Content) -> Iterator[str]:
    stored, shown = content.tally.histograms.tolist()
    labelled = content.view.thresholds
    thresholds = {labelled[i] for i in content.tally.categories}
    yield (
        '<p class="faint"><span class="key stored"></span>stored'
        '<span class="key shown"></span>shown<span class="key threshold"></span>thresholds; '
        "labels by score, on a logarithmic scale</p>\n"
    )
    yield histogram(stored, shown, thresholds)
    steps = [s for s in content.view.vocabulary.provenance if s.get("step") == "calibrate"]
    if steps:
        target, method = (steps[-1].get(key, "?") for key in ("target_precision", "method"))
        yield page.paragraph(f"Calibrated for a precision of {target}, {method}.", "faint")
    if len(thresholds) > 1:
        low, high = min(thresholds), max(thresholds)
        yield page.paragraph(
            f"{len(thresholds)} different thresholds, from {low:.2f} to {high:.2f}.", "faint"
        )


def _categories(content: _Content) -> Iterator[str]:
    tally, pictured = content.tally, content.pictured
    others = len(tally.categories) - len(pictured)
    if not tally.categories:
        yield page.paragraph("The run has no labels.")
        return
    told = f"Pictures of the {len(pictured)} categories with most shown labels."
    if others:
        told += f" {others:,} more {'is' if others == 1 else 'are'} in the table alone."
    yield page.paragraph(told, "faint")
    yield '<div class="cards">\n'
    for category_id in pictured:
        yield from _card(content, category_id)
    yield "</div>\n<details open><summary>All categories</summary>\n"
    yield from _category_table(content)
    yield "</details>\n"


def _card(content: _Content, category_id: int) -> Iterator[str]:
    row = content.tally.categories[category_id]
    threshold = content.view.thresholds[category_id]
    name = content.view.categories[category_id].name
    counts = (
        f"{_count(row.shown, 'label')} on {_count(row.images, 'image')}, {row.stored:,} stored; "
        f"threshold {threshold:.2f}"
    )
    yield f'<section class="card"><h3>{page.name(name)}</h3>\n'
    yield page.paragraph(counts, "faint")
    yield small_histogram(row.histogram.tolist(), threshold)
    for kind, examples in row.examples().items():
        if examples:
            figures = "".join(_crop(content, example) for example in examples)
            yield f'<h4>{_TOLD[kind]}</h4>\n<div class="strip">{figures}</div>\n'
    yield "</section>\n"


def _crop(content: _Content, example: Example) -> str:
    path = content.pictures.paths.get(example, "")
    caption = f"{example.score:.2f} {Path(path).name}"
    name = content.view.categories[example.category_id].name
    return page.figure(
        content.pictures.crops.get(example), caption, f"{name} {example.score:.2f}, {path}"
    )


def _category_table(content: _Content) -> Iterator[str]:
    tally, view = content.tally, content.view
    ranked = tally.ranked()
    columns = ["category", "id", "shown", "images", "stored", "mean score", "threshold"]
    if content.choice is not None:
        columns.append("for review")

    def cells(category_id: int) -> list[object]:
        row: CategoryTally = tally.categories[category_id]
        values: list[object] = [
            view.categories[category_id].name,
            category_id,
            row.shown,
            row.images,
            row.stored,
            row.mean if row.shown else "–",
            view.thresholds[category_id],
        ]
        return values if content.choice is None else [*values, row.chosen]

    yield from page.table(columns, map(cells, ranked[:ROWS]))
    if len(ranked) > ROWS:
        yield page.paragraph(f"{len(ranked) - ROWS:,} more categories are left out.", "faint")
    if silent := len(view.categories) - len(ranked):
        yield page.paragraph(f"{silent:,} categories of the vocabulary have no label.", "faint")


def _attributes(content: _Content) -> Iterator[str]:
    names = content.view.categories
    for kind, values in content.tally.attributes.items():
        ranked = sorted(values.items(), key=lambda row: (-row[1].labels, row[0]))
        total = sum(row.labels for _, row in ranked)
        yield f"<h3>{page.name(kind)}</h3>\n"
        yield from page.table(
            ("value", "labels", "share", "mean score", "most often of"),
            (
                (
                    value,
                    row.labels,
                    f"{row.labels / total:.0%}",
                    row.total / row.labels,
                    ", ".join(
                        f"{names[i].name} ({count:,})" for i, count in row.categories.most_common(3)
                    ),
                )
                for value, row in ranked[:VALUES]
            ),
        )
        if len(ranked) > VALUES:
            yield page.paragraph(f"{len(ranked) - VALUES:,} rarer values are left out.", "faint")


def _chosen(content: _Content, choice: Choice) -> Iterator[str]:
    there = [i for i in choice.image_ids[:CHOSEN] if i in content.tally.places]
    told = f"{_count(len(choice.image_ids), 'image')} chosen by {choice.strategy}"
    if len(there) < len(choice.image_ids):
        told += f"; here {len(there)} of them"
    yield page.paragraph(f"{told}.", "faint")
    yield _images(content, there)


def _duplicates(content: _Content) -> Iterator[str]:
    found = content.duplicates
    told = f"{_count(found.exact, 'image')} of the same bytes as another"
    if found.why_not:
        yield page.paragraph(f"{told}; near ones were not looked for: {found.why_not}.")
    else:
        yield page.paragraph(f"{told}, {found.near:,} of much the same content.")
    for group in found.groups:
        yield f"<h4>{_group_title(group)}</h4>\n"
        yield _images(content, list(group.image_ids[:_OF_GROUP]))
    if found.all_groups > len(found.groups):
        more = found.all_groups - len(found.groups)
        yield page.paragraph(f"{_count(more, 'group')} more: duplicates.jsonl.", "faint")


def _group_title(group: DuplicateGroup) -> str:
    count = len(group.image_ids)
    how = "the same bytes" if group.cosine is None else f"cosine {group.cosine:.3f}"
    more = "" if count <= _OF_GROUP else f", {_OF_GROUP} of them"
    return f"{count} images, {how}{more}"


def _images(content: _Content, image_ids: list[int]) -> str:
    figures = (
        page.figure(content.pictures.images.get(i), Path(path).name, path)
        for i in image_ids
        for path in [content.tally.places.get(i, (0, "not in the finished part"))[1]]
    )
    return f'<div class="wide">{"".join(figures)}</div>\n'


def _failures(content: _Content) -> Iterator[str]:
    tally = content.tally
    if not tally.failed:
        yield page.paragraph("Every image could be read.")
        return
    yield from page.table(("image", "reason"), tally.failures)
    if tally.failed > FAILURES:
        yield page.paragraph(f"{tally.failed - FAILURES:,} more: failed.jsonl.", "faint")


def _speed(content: _Content) -> Iterator[str]:
    if not content.calls:
        yield page.paragraph("No call of detect has left its times in this run.", "faint")
        return
    columns = ("call", "images", "seconds", "images a second", "peak MiB", "waited for")
    last = list(enumerate(content.calls, start=1))[-CALLS:]
    yield from page.table(columns, (_call_row(number, call) for number, call in last))
    if len(content.calls) > CALLS:
        yield page.paragraph(f"{len(content.calls) - CALLS} earlier calls are left out.", "faint")


def _call_row(number: int, call: Mapping[str, Any]) -> tuple[object, ...]:
    shares = sorted(call.get("shares", {}).items(), key=lambda stage: -stage[1])
    return (
        number,
        int(call["images"]),
        float(call["seconds"]),
        float(call["images_per_second"]),
        float(call["peak_rss_mib"]),
        ", ".join(f"{share:.0%} {stage}" for stage, share in shares),
    )


def _making(content: _Content) -> Iterator[str]:
    settings = content.header["settings"]
    rows = [("fingerprint", content.header["fingerprint"])]
    rows += [(key, str(settings[key])) for key in _SETTINGS if settings.get(key) is not None]
    rows += [(key, str(value)) for key, value in content.header.get("versions", {}).items()]
    yield from page.table(("setting", "value"), rows)


def _count(count: int, thing: str) -> str:
    return f"{count:,} {thing}{'s' * (count != 1)}"
