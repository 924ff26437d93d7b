"""Writes docs/results.md from docs/results.json: `make docs`."""

from __future__ import annotations

import itertools
import json
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from vildcli.evaluation.published import published_numbers

RESULTS = Path(__file__).with_name("results.json")
CHOICE = Path(__file__).with_name("chosen_regions.json")  # of benchmarks/chosen_regions.py
PAGE = Path(__file__).with_name("results.md")
PLOT = Path(__file__).with_name("results.png")
BUDGET_PLOT = Path(__file__).with_name("selection.png")
KEYS = ("APr", "APc", "APf", "AP")
# Our row, and the published one that stands beside it: system and setting in published.yaml.
WORLDS = {
    "shapes": "The shapes world: 60 categories, 15 of them novel",
    "emoji": "The emoji world: 240 categories, 60 of them novel",
}
TABLE = {
    "supervised, base": ("supervised", "R50, base only"),
    "supervised, base + novel": ("supervised", "R50, base and novel"),
    "supervised-rfs, base + novel": ("supervised-rfs", "R50, base and novel"),
    "clip-on-crops": ("clip-on-crops", "R50, no objectness"),
    "clip-on-crops, objectness": ("clip-on-crops", "R50, with objectness"),
    "glove": ("glove", "R50"),
    "vild-text": ("vild-text", "R50"),
    "vild-image": ("vild-image", "R50"),
    "vild l1 w=0.1": ("vild", "R50, L1, w = 0.1"),
    "vild l1 w=0.5": ("vild", "R50, L1, w = 0.5"),
    "vild l1 w=1": ("vild", "R50, L1, w = 1.0"),
    "vild l2 w=0.5": ("vild", "R50, L2, w = 0.5"),
    "vild l2 w=1": ("vild", "R50, L2, w = 1.0"),
    "vild-ensemble": ("vild-ensemble", "R50, w = 0.5"),
    "vild-text-clip": ("vild-text-clip", "R50"),
    "vild-ensemble, no novel objects": None,
}
LADDER = {
    "chance": "chance: novel names exchanged, on vild-ensemble's regions",
    "vild-text": "vild-text",
    "vild-ensemble": "vild-ensemble",
    "teacher on its regions": "the teacher on vild-ensemble's regions",
    "teacher on true boxes": "the teacher on true boxes",
}
RECALL = {
    "proposals of vild-text": "base",
    "proposals of supervised, base + novel": "base + novel",
}
SELECTION = "selection, shapes"  # of benchmarks/isal.py
_SELECTION = {
    "leave-one-in": (
        "One image more: a convex head is trained again with its true labels, and the change of "
        "the reference loss is held against what was predicted from pseudo labels: Spearman's rank "
        "correlation, by the head's ridge (one seed where there is no ±). *isal* has the exact "
        "inverse; *true labels* shows what is left to the pseudo labels."
    ),
    "curve": (
        "Box AP by the share of the pool that is labelled; RoI heads on cached features of a "
        "frozen backbone that was trained on the base categories of another world."
    ),
    "full": "Mask AP of whole detectors, trained from scratch on the images of those curves.",
    "classification": "Accuracy on crops of true objects: the teacher's embeddings, a linear head.",
}
_HEAD = """\
# Results on the small world

Made by `make docs` from `docs/results.json`; do not edit. Every number was measured by the commands
at the end. The world is described in [world.md](world.md), the systems in [systems.md](systems.md).
Ours is mask AP on drawn scenes, the paper's is on LVIS v1: only the *order* of the rows can be
compared. Rare categories are novel: no box of them is trained on, but in the rows that say so.

Measured on a CPU beside other jobs, in minutes a row and mostly with one seed: differences of two
points mean little (± is half the spread of the seeds), and the seconds in `results.json` are no
figure. Rows that are not here were not measured. Repeat factors do nothing in these worlds: the
rarest category of the shapes is in 0.5% of 600 images, above LVIS's 0.1%.
"""
# Said below the table of orderings of a world.
WHY = {
    "shapes": """\
Why some do not hold: trained for 300 steps from scratch, the detector is far from converged, and a
larger weight takes from the learning of everything: from w = 0.1 to w = 1 the common and
frequent categories lose eight to nine points, and the novel ones gain nothing. L2, which is far
smaller than L1 on unit-norm embeddings, is the gentler distillation, and with w = 1 it finds most.
A point of AP_r between `vild-ensemble` and `vild` is less than what lies between two seeds. That
training images show no novel object costs nothing: distillation needs proposals, not novel objects
in them.
""",
    "emoji": """\
After 400 steps on four times as many names everything is far from converged, the closed classifier
of the supervised detector most: it learns each name from its own few boxes, where text embeddings
and distillation bring what the teacher knows of all.
""",
}
_PICTURE = """\
![AP of rare categories over AP of frequent ones, system by system: here and published](results.png)
"""
_COLOURS = """\
Of the objects of fresh scenes that a region of vild-ensemble meets with IoU 0.5: how many get their
category, their colour (of 8) and both right, read by two softmaxes over p names and q colours, and
by one over the p x q names that `expand --flatten` writes.\
"""
_GAP = """\
The teacher learns from clean crops; scenes are darker, blurred and tinted ([world.md](world.md)).
Each of EZSD's parts stands alone on ViLD: the adapted teacher (its text too), the regions that the
teacher chooses among a base-trained detector's proposals, with their weights, and boxes that depend
on the name. *Names* are those that a teacher that chooses regions knew; no novel box is looked at
anywhere. *Training* is of the row alone. *Offline* is everything before it: that detector, a
`vild-text`, the teacher's adaptation, and choosing and embedding regions. A tenth of the steps goes
on from that detector, which ViLD's row does too; Seesaw's background does not fit it.\
"""
_ADAPTED = """\
What comes out: after equal steps EZSD finds more novel objects than ViLD and more of everything,
most with w = 0.5 (published for LVIS); w = 1 (for COCO) takes from the learning of base names,
which is far from done after 300 steps. What is published of a tenth of the steps can be seen: 30
steps of EZSD with w = 1, on from the detector that proposes, give more than ViLD's 300 from
nothing, and than ViLD's 30 on from it. Nearly all of that is the adapted teacher's doing. Its 60
chosen regions an image meet 87% to 91% of the novel objects of training images, the detector's
first 40 proposals 78% to 83%, yet bring nothing by themselves: EZSD cuts one crop of 1.2 times a
box on black, in which this teacher names 65% of those objects rightly (33% before it was adapted),
and ViLD averages two, in which it names 75% (50%); the caches of the commands below say so in their
`accuracy.json`. What boxes that depend on the name bring is less than what lies between seeds;
Seesaw loss is made for longer tails than this world has.

The adaptation is by softmax at a rate of 0.001. As released for CLIP (sigmoid, 0.0001) it made this
teacher worse: from 19.0% to 4.4% of base boxes, and from 29.0% to 18.1% of novel ones (2026-11-21,
with W for `runs/ezsd-gap-0.2`: `vildcli teach --adapt --data W/world/train.json --images
W/world/train --val W/world/val.json --val-images W/world/val --teacher local-dir:W/teacher --out
runs/ezsd-as-released`).
"""
_CHOICE = """\
EZSD's teacher scores a crop of every anchor. The cheap way scores what a class-agnostic detector
proposes, three times as many boxes as are kept (`--among`). *Agreement*: of the exact way's
regions, those that one of these meets with IoU 0.7. *Novel recall*: of all novel objects, those
that one of these meets with IoU 0.5. The exact way is timed with its crops cut in batches, the
cheap one with its detector. Proposals alone are ranked by objectness, with no teacher.

The cheap way takes less than a tenth of the time and finds every novel object; the exact one finds
hardly more of them than chance does, with this small teacher. They are not the same regions: the
cheap way agrees with the exact one no more than chance, for anchors of five sizes and three shapes
seldom fit an object as tightly as proposals do.\
"""
_CHOSEN = """\
What comes out: for a detector `isal`, `hybrid` and `coreset` need fewer images than chance, and
about as many boxes an image. The whole lead is less than a point of AP, though, and `hybrid`, which
looks at records alone, is not behind `isal`; whole detectors, trained from scratch for 150 steps
and with one seed, show none of it. Influence itself is found rightly (with true labels
the rank correlation is 0.98 and more), but pseudo labels tell little of it: a head with a ridge of
0.001 names 19% of the reference objects rightly, one with 0.0001 48%, and the correlation that was
hoped for, 0.5, is reached by none. It is above that of entropy wherever names are right at all,
above plain similarity of gradients at one ridge only. `margin` ranks as `entropy` does, since a
record holds the score of one name. For a classifier `isal` is behind chance: its gradient is that
of the likeliest class, which a head that has seen 5% of the pool gets wrong more often than not;
`coreset` and `margin` are far ahead there.
"""
_COLUMNS = "| system | AP_r | AP_c | AP_f | AP | LVIS: AP_r | AP_c | AP_f | AP | seeds |"
Rows = Sequence[dict[str, Any]]


def page() -> str:
    """The whole page."""
    rows = json.loads(RESULTS.read_text(encoding="utf-8"))
    lines = [_HEAD, _PICTURE]
    for world, words in WORLDS.items():
        if here := [row for row in rows if row["world"] == world]:
            parts = (_table(here), _orderings(here), _ladder(here), _colours(here), _recall(here))
            lines += [f"## {words}", "", *(line for part in parts for line in part)]
    lines += _gap([row for row in rows if ", gap " in row["world"]])
    if CHOICE.exists():
        lines += _choice(json.loads(CHOICE.read_text(encoding="utf-8")))
    if chosen := [row for row in rows if row["world"] == SELECTION]:
        lines += _selection(chosen)
    return "\n".join([*lines, *_provenance(rows)]) + "\n"


def _of(rows: Rows, name: str) -> Rows:
    return [row for row in rows if row["row"] == name]


def _cell(rows: Rows, key: str) -> str:
    """Mean over the seeds, and half the spread where there are several."""
    values = [row[key] for row in rows]
    mean = f"{statistics.fmean(values):.1f}"
    return f"{mean} ± {(max(values) - min(values)) / 2:.1f}" if len(values) > 1 else mean


def _published(name: str) -> dict[str, float]:
    if (wanted := TABLE[name]) is None:
        return {}
    for number in published_numbers():
        if (number.protocol, number.measure, number.system, number.setting) == (
            "lvis",
            "Mask AP",
            *wanted,
        ) and number.source in ("paper", "v1"):
            return dict(number.values)
    return {}


def _table(rows: Rows) -> Iterator[str]:
    yield "### The paper's table"
    yield ""
    yield _COLUMNS
    yield "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|"
    for name in TABLE:
        if found := _of(rows, name):
            ours = " | ".join(_cell(found, key) for key in KEYS)
            published = _published(name)
            theirs = " | ".join(f"{published[k]:g}" if k in published else "–" for k in KEYS)
            yield f"| {name} | {ours} | {theirs} | {len(found)} |"
    yield ""


def _orderings(rows: Rows) -> Iterator[str]:
    """What the paper finds, held against the means measured here."""
    claims = (
        ("supervised on base finds nothing novel", "APr", "supervised, base", "=", None),
        ("distillation finds more novel objects", "APr", "vild l1 w=0.5", ">", "vild-text"),
        ("the ensemble recovers frequent ones", "APf", "vild-ensemble", ">", "vild l1 w=0.5"),
        ("a larger w finds more novel objects", "APr", "vild l1 w=1", ">", "vild l1 w=0.1"),
        ("and costs frequent ones", "APf", "vild l1 w=0.1", ">", "vild l1 w=1"),
        ("L1 beats L2 on novel objects", "APr", "vild l1 w=0.5", ">", "vild l2 w=0.5"),
        ("the ensemble finds more than one head", "APr", "vild-ensemble", ">", "vild l1 w=0.5"),
        ("the teacher itself finds most", "APr", "vild-text-clip", ">", "vild-ensemble"),
        ("GloVe knows less than CLIP's text", "APr", "vild-text", ">", "glove"),
        ("objectness helps CLIP on crops", "AP", "clip-on-crops, objectness", ">", "clip-on-crops"),
    )
    lines = []
    for words, key, left, sign, right in claims:
        pairs = list(_pairs(rows, left, right or left))
        if not pairs:
            continue
        mine = statistics.fmean(row[key] for row, _ in pairs)
        other = statistics.fmean(row[key] for _, row in pairs)
        holds = mine < 0.05 if sign == "=" else mine > other
        beside = f", {right} {other:.1f}" if right else ""
        lines.append(
            f"| {words} | {_name(key)}: {left} {mine:.1f}{beside} | {'yes' if holds else 'no'} |"
        )
    if lines:
        yield "### Which of the paper's orderings hold here"
        yield ""
        yield "| the paper finds | measured | holds |"
        yield "|---|---|---|"
        yield from lines
        yield ""
        yield WHY[rows[0]["world"]]


def _pairs(rows: Rows, left: str, right: str) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Two rows of the table, by the seeds that both were measured with."""
    others = {row["seed"]: row for row in _of(rows, right)}
    for row in _of(rows, left):
        if row["seed"] in others:
            yield row, others[row["seed"]]


def _name(key: str) -> str:
    return key.replace("AP", "AP_") if len(key) == 3 else key


def _ladder(rows: Rows) -> Iterator[str]:
    yield "### The ladder"
    yield ""
    yield "What a system could find at most, and what chance finds:"
    yield ""
    yield "| | AP_r | AP |"
    yield "|---|--:|--:|"
    for name, words in LADDER.items():
        if found := _of(rows, name):
            yield f"| {words} | {_cell(found, 'APr')} | {_cell(found, 'AP')} |"
    yield ""


def _colours(rows: Rows) -> Iterator[str]:
    found = _of(rows, "colours of vild-ensemble")
    if not found:
        return
    yield "### Colours"
    yield ""
    yield _COLOURS
    yield ""
    yield "| categories | objects | vocabulary | category | colour | both |"
    yield "|---|--:|---|--:|--:|--:|"
    for group, shares in found[0]["accuracy"].items():
        for kind in ("factorised", "flattened"):
            values = " | ".join(f"{shares[f'{kind} {k}']}%" for k in ("category", "colour", "both"))
            yield f"| {group} | {shares['objects']} | {kind} | {values} |"
    yield ""


def _recall(rows: Rows) -> Iterator[str]:
    if not any(_of(rows, name) for name in RECALL):
        return
    yield "### Proposals"
    yield ""
    yield "Average recall of class-agnostic proposals (IoU 0.50 to 0.95), by what supervised them."
    yield "LVIS, rare categories: 39.3, 48.3, 55.6 from base, 41.1, 50.9, 57.0 from base + novel."
    yield ""
    yield "| supervision | objects | AR@100 | AR@300 | AR@1000 |"
    yield "|---|---|--:|--:|--:|"
    for name, words in RECALL.items():
        for row in _of(rows, name)[:1]:
            groups = dict.fromkeys(key.rsplit(" ", 1)[0] for key in row["recall"])
            for group in groups:
                values = " | ".join(
                    f"{row['recall'][f'{group} AR@{k}']:g}" for k in (100, 300, 1000)
                )
                yield f"| {words} | {group} | {values} |"
    yield ""


def _gap(rows: Rows) -> Iterator[str]:
    """ViLD and EZSD, of benchmarks/ezsd.py, at equal steps and at a tenth of them."""
    if not rows:
        return
    yield "## ViLD and EZSD where scenes do not look like the teacher's pictures"
    yield ""
    yield _GAP
    yield ""
    yield "| world, steps | system | AP_r | AP_c | AP_f | AP | names | training | offline | seeds |"
    yield "|---|---|--:|--:|--:|--:|---|--:|--:|--:|"
    places = {(row["world"], -row["steps"], row["init"]) for row in rows}
    names = dict.fromkeys(row["row"] for row in rows)
    for world, steps, init in sorted(places):
        here = [r for r in rows if (r["world"], -r["steps"], r["init"]) == (world, steps, init)]
        place = f"{world}, {-steps}" + (f" after {init}" if init != "scratch" else "")
        for name in names:
            if not (found := _of(here, name)):
                continue
            cells = [place, name, *(_cell(found, key) for key in KEYS)]
            cells += [found[0]["names"]]
            for key in ("train_seconds", "offline_seconds"):
                taken = [row[key] for row in found]
                known = None not in taken  # of a stage that was interrupted, nobody knows
                cells.append(f"{statistics.fmean(taken):.0f} s" if known else "–")
            yield f"| {' | '.join(cells)} | {len(found)} |"
    yield ""
    yield from _adapted(rows)


def _choice(found: dict[str, Any]) -> Iterator[str]:
    """Ways to choose a teacher's regions, of benchmarks/chosen_regions.py."""
    yield "## Regions that a teacher chooses: the exact way and the cheap one"
    yield ""
    yield _CHOICE
    yield ""
    yield "| way | agreement | novel recall | crops an image | seconds | of the exact way's |"
    yield "|---|--:|--:|--:|--:|--:|"
    for row in found["rows"]:
        cells = [f"{row[key]:.1%}" for key in ("agreement", "recall")]
        cells += [f"{row['crops']:.0f}", f"{row['seconds']:.2f}", f"{row['share']:.1%}"]
        yield f"| {row['way']} | {' | '.join(cells)} |"
    yield ""
    yield f"{found['images']} images with {found['novel_objects']} novel objects. A loop over crops"
    yield f"in PIL, as the authors' is, would take {found['loop_seconds']:.1f} s an image."
    yield f"{found['date']}, {found['hardware']}, beside other jobs: `{found['command']}`"
    yield ""


def _adapted(rows: Rows) -> Iterator[str]:
    """What adaptation did for the teacher."""
    for world in sorted({row["world"] for row in rows}):
        known = [row for row in rows if row["world"] == world and "teacher_accuracy" in row]
        if known:
            before, after = (known[0]["teacher_accuracy"][when] for when in ("before", "after"))
            groups = [
                f"of {group} {before[group]:.1%} before it was adapted and {after[group]:.1%} after"
                for group in ("base", "novel")
            ]
            yield f"The teacher names true boxes of {world} right: {', '.join(groups)}."
            yield ""
    yield _ADAPTED


def _selection(rows: Rows) -> Iterator[str]:
    """Label budgets, and influence against retraining."""
    yield "## Which images to label: shapes"
    yield ""
    yield "How it is chosen: [selection.md](selection.md). Means over seeds, ± half their spread."
    yield ""
    yield "![What is learned by the share of images that is labelled](selection.png)"
    yield ""
    for row in (row for row in rows if row["part"] == "cost"):
        yield f"An image takes {row['detect']:.3f} CPU seconds to detect, and influence"
        yield f"{row['isal']:.3f} more: {1 + row['times']:.2f} times in all"
        yield f"(mean of {row['images']} images)."
        yield ""
    for part, words in _SELECTION.items():
        found = [row for row in rows if row["part"] == part]
        if not found:
            continue
        key = {"leave-one-in": "spearman", "classification": "accuracy"}.get(part, "AP")
        budgets = sorted({row["budget"] for row in found})
        head = "ridge {:g}" if part == "leave-one-in" else "{}%"
        heads = [head.format(budget) for budget in budgets]
        last = "| saved | seeds |" if part == "curve" else "| seeds |"
        yield from (f"### {part.capitalize()}", "", words, "")
        yield f"| | {' | '.join(heads)} {last}"
        yield f"|---|{'--:|' * (len(budgets) + last.count('|') - 1)}"
        for name in dict.fromkeys(row["row"] for row in found):
            own = _of(found, name)
            cells = [_at(own, budget, key, 2 if key == "spearman" else 1) for budget in budgets]
            saved = [_saved(found, name)] if part == "curve" else []
            seeds = len({row["seed"] for row in own})
            yield f"| {name} | {' | '.join([*cells, *saved])} | {seeds} |"
        yield ""
    yield "*Saved*: the share of images less than random needs for the AP that it has at its"
    yield "largest budget, on straight lines between the points; the paper reports 12 to 16%."
    yield ""
    yield _CHOSEN


def _at(rows: Rows, budget: int, key: str, digits: int) -> str:
    values = [row[key] for row in rows if row["budget"] == budget]
    if not values:
        return "–"
    mean = f"{statistics.fmean(values):.{digits}f}"
    spread = f" ± {(max(values) - min(values)) / 2:.{digits}f}"
    return mean + (spread if len(values) > 1 else "")


def _saved(rows: Rows, name: str) -> str:
    mine, random = (_mean_curve(_of(rows, row)) for row in (name, "random"))
    if name == "random" or not mine or not random or max(mine) < max(random):
        return "–"
    most = max(random)
    wanted = random[most]
    steps = sorted(mine.items())
    for (low, before), (high, after) in itertools.pairwise(steps):
        if before < wanted <= after:
            needed = low + (high - low) * (wanted - before) / (after - before)
            return f"{100 * (1 - needed / most):.0f}%"
    return "none" if steps[-1][1] < wanted else "–"


def _mean_curve(rows: Rows, key: str = "AP") -> dict[int, float]:
    """A number by budget, mean over the seeds."""
    budgets = sorted({row["budget"] for row in rows})
    return {b: statistics.fmean(row[key] for row in rows if row["budget"] == b) for b in budgets}


def _provenance(rows: Rows) -> Iterator[str]:
    yield "## How it was measured"
    yield ""
    kinds = {(r["world"], r["steps"], r["hardware"], r["date"], r["command"]) for r in rows}
    for world, steps, hardware, day, command in sorted(kinds):
        yield f"- {day}, {hardware}, `{world}` world, {steps} steps a row: `{command}`"


def draw(path: Path) -> None:
    """AP of novel categories over AP of frequent base ones: each world, and LVIS as published."""
    rows = json.loads(RESULTS.read_text(encoding="utf-8"))
    panels = [(words, _points(rows, world)) for world, words in WORLDS.items()]
    published = {name: _published(name) for name in TABLE}
    panels.append(("LVIS v1, as published", {k: v for k, v in published.items() if v}))
    figure = Figure(figsize=(14, 5.2), dpi=100, layout="constrained")
    for axes, (title, points) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        for name, values in points.items():
            number = list(TABLE).index(name)
            marker = "os"[number // 10]
            axes.plot(values["APf"], values["APr"], marker, color=f"C{number % 10}", label=name)
        axes.set(title=title, xlabel="AP of frequent categories", ylabel="AP of rare ones: novel")
        axes.margins(0.08)
    lines, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(lines, names, loc="outside lower center", ncols=6, fontsize=8)
    figure.savefig(path)


def draw_budgets(path: Path) -> None:
    """What was learned, by the share of the pool that is labelled: a line a strategy."""
    rows = json.loads(RESULTS.read_text(encoding="utf-8"))
    panels = {"curve": ("AP", "box AP, detector"), "classification": ("accuracy", "accuracy, %")}
    names = dict.fromkeys(row["row"] for row in rows if row.get("part") == "curve")
    figure = Figure(figsize=(10, 4), dpi=100, layout="constrained")
    for axes, (part, (key, words)) in zip(figure.subplots(1, 2), panels.items(), strict=True):
        here = [row for row in rows if row["world"] == SELECTION and row["part"] == part]
        for number, name in enumerate(names):
            if curve := _mean_curve(_of(here, name), key):
                style = "k--" if name == "random" else f"C{number}o-"
                axes.plot(list(curve), list(curve.values()), style, label=name, markersize=3)
        axes.set(xlabel="labelled images, % of the pool", ylabel=words)
    if figure.axes[0].lines:
        figure.axes[0].legend(fontsize=8)
    figure.savefig(path)


def _points(rows: Rows, world: str) -> dict[str, dict[str, float]]:
    here = [row for row in rows if row["world"] == world]
    return {
        name: {key: statistics.fmean(row[key] for row in found) for key in KEYS}
        for name in TABLE
        if (found := _of(here, name))
    }


if __name__ == "__main__":
    draw(PLOT)
    draw_budgets(BUDGET_PLOT)
    PAGE.write_text(page(), encoding="utf-8")
