"""Writes docs/performance.md and its plots from docs/performance.json: `make docs`."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

RESULTS = Path(__file__).with_name("performance.json")
PAGE = Path(__file__).with_name("performance.md")
PLOT = Path(__file__).with_name("performance.png")
Row = dict[str, Any]
Rows = Sequence[Row]
_MEASURES = (
    "CPU ratio",
    "ratio",
)  # the first that a row has: beside other jobs the clock says less
_WIDTH = 512  # of the embeddings of benchmarks/growth.py
_PEERS = ("OWLv2-B/16", "Grounding DINO tiny", "CLIP on crops")


@dataclass(frozen=True, slots=True)
class Aim:
    """What a section wants, and the numbers that say whether it is reached.

    Attributes:
        sign: what the numbers should be of the limit.
        found: the numbers, of all of the page's rows; none where nothing was measured.
        unit: written behind a number.
    """

    words: str
    sign: str
    limit: float
    found: Callable[[Rows], list[float]]
    unit: str = "x"

    def reached(self, numbers: Sequence[float]) -> str:
        if not numbers:
            return "not measured"
        met = [n <= self.limit if self.sign == "≤" else n >= self.limit for n in numbers]
        return "yes" if all(met) else "in part" if any(met) else "no"


@dataclass(frozen=True, slots=True)
class Section:
    """A heading of the page.

    Attributes:
        items: whose rows are shown.
        rows, without: names of rows that are shown, and that are not; none shows all.
        words: said below the heading.
    """

    title: str
    items: tuple[str, ...]
    aims: tuple[Aim, ...] = ()
    rows: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    words: str = ""


def _pick(rows: Rows, item: str, row: str, **parameters: Any) -> list[Row]:
    return [
        r
        for r in rows
        if (r["item"], r["row"]) == (item, row)
        and all(r["parameters"].get(key) == value for key, value in parameters.items())
    ]


def _on(rows: Rows, gpu: bool) -> list[Row]:
    return [row for row in rows if (" cores, " not in row["hardware"]) == gpu]


def _values(rows: Rows, *keys: str) -> list[float]:
    """Of each row the first of the keys that it has."""
    found = ([row["measured"][key] for key in keys if key in row["measured"]] for row in rows)
    return [values[0] for values in found if values]


def _owl_ratio(rows: Rows) -> list[float]:
    """CPU time of OWLv2, which makes no masks, over that of `vild` at as many names."""
    found = []
    for theirs in _pick(rows, "detect", "OWLv2-B/16"):
        names = theirs["parameters"]["names"]
        for ours in _pick(rows, "detect", "vild", names=names):
            if ours["hardware"] == theirs["hardware"]:
                found.append(theirs["measured"]["CPU ms"] / ours["measured"]["CPU ms"])
    return found


def _names_ratio(rows: Rows) -> list[float]:
    """CPU time of 20,000 names over that of 80, all else equal."""
    found = []
    for system in ("vild", "vild-ensemble"):
        for few in _pick(rows, "detect", system, names=80):
            more = {**few["parameters"], "names": 20_000}
            for many in _pick(rows, "detect", system, **more):
                if many["hardware"] == few["hardware"]:
                    found.append(many["measured"]["CPU ms"] / few["measured"]["CPU ms"])
    return found


def _memory_ratio(rows: Rows) -> list[float]:
    """Peak memory of the largest run over that of the smallest."""
    found = _pick(rows, "relabel", "vildcli relabel", regions=1000, names=1203)
    peaks = {row["parameters"]["images"]: row["measured"]["peak MiB"] for row in found}
    return [peaks[max(peaks)] / peaks[min(peaks)]] if len(peaks) > 1 else []


def _million(rows: Rows) -> list[float]:
    """CPU seconds of a run of a million regions with colours."""
    found = _pick(rows, "relabel", "vildcli relabel", images=1000, regions=1000, names=1203)
    colours = [row for row in found if row["parameters"]["attributes"]]
    return [ms * 1000 / 1e3 for ms in _values(colours, "CPU ms")]


def _detect(row: str, regions: int) -> Callable[[Rows], list[float]]:
    def found(rows: Rows) -> list[float]:
        mine = _pick(rows, "detect", row, names=1203, regions=regions)
        return _values(_on(mine, gpu=False), *_MEASURES)

    return found


def _gpu_detect(rows: Rows) -> list[float]:
    mine = _on(_pick(rows, "detect", "vild", precision="bf16"), gpu=True)
    return [1 / ratio for ratio in _values(mine, "ratio")]


def _of(item: str, row: str, *keys: str, **parameters: Any) -> Callable[[Rows], list[float]]:
    return lambda rows: _values(_on(_pick(rows, item, row, **parameters), gpu=False), *keys)


def _of_gpu(item: str, row: str, *keys: str, **parameters: Any) -> Callable[[Rows], list[float]]:
    return lambda rows: _values(_on(_pick(rows, item, row, **parameters), gpu=True), *keys)


def _evaluation_peak(compared: str) -> Callable[[Rows], list[float]]:
    """MiB that LVIS val's size takes at most."""
    size = {"images": 19_809, "detections": 300}
    return _of("evaluation", "vildcli", "peak MiB", **size, compared=compared)


def _relabel_on_two_cores(rows: Rows) -> list[float]:
    found = _pick(rows, "relabel", "vildcli relabel", regions=1000, names=1203, attributes=None)
    return _values([row for row in found if row["hardware"].startswith("2 cores")], "image ms")


SECTIONS = (
    Section(
        "1. Detect, beside torchvision's Mask R-CNN",
        ("detect", "detect_parts"),
        (
            Aim(
                "`vild`, 1,203 names, 1,000 regions: time of v2 at 91 classes",
                "≤",
                0.5,
                _detect("vild", 1000),
            ),
            Aim("`vild-ensemble`, the same", "≤", 0.7, _detect("vild-ensemble", 1000)),
            Aim("20,000 names: time of 80 names", "≤", 1.25, _names_ratio),
            Aim("`vild` on a GPU, bf16, batch 8: images/s of v2, eager fp32", "≥", 2, _gpu_detect),
        ),
        without=_PEERS,
        words="`ratio` is time over that of v2 at 91 classes, with as many masks on both sides. "
        "Why not 0.5x: both make as many multiplications (300 G), and oneDNN's convolutions run "
        "near what a core can do. Winograd's filtering needs a quarter of the products of the "
        "3 x 3 ones, but batched products of its sizes run at two thirds of that rate and the "
        "transforms cost on top. Next: pooling from channels-last features, packed products.",
    ),
    Section(
        "2. Detect, beside what does the same job",
        ("detect",),
        (
            Aim(
                "images/s of OWLv2-B/16, as CPU time an image",
                "≥",
                1.5,
                _owl_ratio,
            ),
        ),
        rows=_PEERS,
        words="Texts are embedded beforehand on all sides but Grounding DINO's, whose text goes "
        "through every layer beside the image. The paper's 630x of CLIP on crops is for 1,000 "
        "regions on its GPU; here it has 100, beside `vild` with as many, and pays for each.",
    ),
    Section(
        "3. Relabel",
        ("relabel",),
        (
            Aim(
                "an image of 1,000 regions, two sides, 1,203 names, on two cores",
                "≤",
                50,
                _relabel_on_two_cores,
                " ms",
            ),
            Aim("a million regions, 1,203 names, 11 colours, CPU time", "≤", 120, _million, " s"),
            Aim("memory of the largest run over that of the smallest", "≤", 1.1, _memory_ratio),
        ),
    ),
    Section(
        "4. Text bank",
        ("text_bank",),
        (
            Aim("exact, beside open_clip plainly", "≥", 5, _of("text_bank", "vildcli", *_MEASURES)),
            Aim("bf16 weights", "≥", 10, _of("text_bank", "vildcli, bf16 weights", *_MEASURES)),
            Aim(
                "bf16 weights: least cosine",
                "≥",
                0.9999,
                _of("text_bank", "vildcli, bf16 weights", "least cosine"),
                "",
            ),
        ),
    ),
    Section(
        "5. Teacher crops",
        ("teacher_crops",),
        (
            Aim(
                "crops alone, beside the PIL loop, CPU",
                "≥",
                2,
                _of("teacher_crops", "vildcli", *_MEASURES, stage="crops"),
            ),
            Aim(
                "crops and embeddings, GPU",
                "≥",
                10,
                _of_gpu("teacher_crops", "vildcli", "ratio", stage="crops and embeddings"),
            ),
        ),
    ),
    Section(
        "6. Training step",
        ("training_step", "training_data"),
        (
            Aim(
                "`vild-ensemble`: time of torchvision's v2",
                "≤",
                1.15,
                lambda rows: _values(_pick(rows, "training_step", "vild-ensemble"), *_MEASURES),
            ),
        ),
    ),
    Section(
        "7. Evaluation",
        ("evaluation",),
        (
            Aim(
                "5,000 images x 100 detections x 1,203 names, beside `lvis`",
                "≥",
                50,
                _of("evaluation", "vildcli", *_MEASURES, rules="lvis", images=5000),
            ),
            Aim(
                "19,809 images x 300: peak memory, boxes",
                "≤",
                3 * 1024,
                _evaluation_peak("boxes"),
                " MiB",
            ),
            Aim(
                "the same, masks",
                "≤",
                7 * 1024,
                _evaluation_peak("masks"),
                " MiB",
            ),
        ),
    ),
    Section(
        "8. Start-up",
        ("start_up",),
        (
            Aim(
                "`vildcli --help`, CPU time",
                "≤",
                300,
                _of("start_up", "vildcli --help", "CPU ms"),
                " ms",
            ),
            Aim(
                "`vildcli --help`: time of a bare `import click`",
                "≤",
                4,
                _of("start_up", "vildcli --help", *_MEASURES),
            ),
        ),
        words="`export` imports no torch in any format; tests hold it to that, and the help to the "
        "number of modules that it loads.",
    ),
    Section(
        "9. Growth",
        ("growth",),
        words="Scoring grows with names and regions as its products do, within twice of what they "
        "take from a hundred regions and a thousand names on. Attributes cost next to nothing: "
        "only labelled regions are read for them. With few regions an image, relabelling is files "
        "and rows, not products; memory stays.\n\n"
        "`at best` is the longer of FLOPs and bytes over what this machine does in a product of "
        "large matrices and in a copy; `times` is how far from it. Memory is what a process took "
        "beyond torch itself. Dashed are the limits; of memory it is the names' embeddings, the "
        "regions of an image, and one matrix of scores.",
    ),
    Section("Attributes", ("attributes",)),
    Section("Questions", ("ask",)),
)
_PICTURE = "![Time and memory against names, regions, attributes and images](performance.png)"
_OTHER = "Other measurements"
_HEAD = """\
# Performance

Made by `make docs` from `docs/performance.json`; do not edit. Every number was measured by the
commands below it; [benchmarks/README.md](../benchmarks/README.md) says what each script does.
Ratios compare turns that alternate in one run. Weights are random where a note says so: they
change no time. *Beside other jobs* the clock says little, and CPU time is what to read. What was
never measured is said to be so. On your own machine: `vildcli bench`.
"""


def page() -> str:
    """The whole page."""
    rows: Rows = json.loads(RESULTS.read_text(encoding="utf-8"))
    lines = [_HEAD]
    for section in SECTIONS:
        lines += _section(section, rows)
    known = {item for section in SECTIONS for item in section.items}
    if other := [row for row in rows if row["item"] not in known]:
        items = tuple(dict.fromkeys(row["item"] for row in other))
        lines += _section(Section(_OTHER, items), rows)
    return "\n".join(lines).rstrip() + "\n"


def _section(section: Section, rows: Rows) -> Iterator[str]:
    yield f"## {section.title}"
    yield ""
    if section.words:
        yield from (section.words, "")
    if section.aims:
        yield "| aim | | measured | reached |"
        yield "|---|--:|--:|---|"
        for aim in section.aims:
            yield _aim(aim, aim.found(rows))
        yield ""
    own = [row for row in rows if row["item"] in section.items and _is_shown(section, row["row"])]
    if section.items == ("growth",) and own:
        yield from (
            "![Time and memory against names, regions, attributes and images](performance.png)",
            "",
        )
    if not own:
        yield from ("Not measured yet.", "")
        return
    for group in _groups(own):
        yield from _table(group)
    yield from _provenance(own)


def _is_shown(section: Section, row: str) -> bool:
    return row not in section.without and (not section.rows or row in section.rows)


def _aim(aim: Aim, numbers: Sequence[float]) -> str:
    ends = (min(numbers), max(numbers)) if numbers else ()
    measured = " to ".join(dict.fromkeys(map(_number, ends))) + aim.unit if numbers else "–"
    wanted = f"{aim.sign} {aim.limit:,g}{aim.unit}"
    return f"| {aim.words} | {wanted} | {measured} | {aim.reached(numbers)} |"


def _groups(rows: Rows) -> list[list[Row]]:
    """Rows that go into one table: of one item, asked for in the same words."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["item"], *row["parameters"]), []).append(row)
    return list(groups.values())


def _table(rows: Rows) -> Iterator[str]:
    """Parameters that all rows share are said above it."""
    asked = {key: [row["parameters"][key] for row in rows] for key in rows[0]["parameters"]}
    varied = [key for key, values in asked.items() if len(set(map(str, values))) > 1]
    shared = {key: values[0] for key, values in asked.items() if key not in varied}
    fixed = [f"{key} {_cell(value)}" for key, value in shared.items() if value is not None]
    rows = sorted(rows, key=lambda row: [_order(row["parameters"][key]) for key in varied])
    measured = list(dict.fromkeys(key for row in rows for key in row["measured"]))
    machines = len({row["hardware"] for row in rows}) > 1
    if fixed:
        yield f"{', '.join(fixed)}:"
        yield ""
    yield f"| {' | '.join(['', *varied, *measured, *(['hardware'] if machines else [])])} |"
    yield f"|---|{'--:|' * (len(varied) + len(measured))}{'---|' * machines}"
    for row in rows:
        cells = [row["row"], *(_cell(row["parameters"][key]) for key in varied)]
        cells += [_cell(row["measured"].get(key)) for key in measured]
        cells += [row["hardware"]] * machines
        yield f"| {' | '.join(cells)} |"
    yield ""


def _order(value: Any) -> tuple[bool, bool, Any]:
    """Numbers by size, then words, then nothing."""
    return value is None, isinstance(value, str), value or 0


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, str):
        return value.replace("|", "\\|")
    return f"{value:,}" if isinstance(value, int) else _number(value)


def _number(value: float) -> str:
    """Three digits, but every one of what is as good as 1."""
    if value and abs(1 - value) < 0.01:
        return f"{value:.6g}"
    digits = 2 - math.floor(math.log10(abs(value))) if value else 0
    return f"{value:,.{max(0, digits)}f}"


def _provenance(rows: Rows) -> Iterator[str]:
    kinds = dict.fromkeys((r["date"], r["hardware"], r["note"], r["command"]) for r in rows)
    for day, hardware, note, command in kinds:
        yield f"- {day}, {hardware}{', ' + note if note else ''}: `{command}`"
    yield ""


def draw(path: Path) -> None:
    """Time over memory, an axis of growth each; limits are dashed."""
    rows: Rows = json.loads(RESULTS.read_text(encoding="utf-8"))
    growth = [row for row in rows if row["item"] == "growth"]
    axes_of = ("names", "regions", "attributes", "images")
    figure = Figure(figsize=(14, 6), dpi=100, layout="constrained")
    panels = figure.subplots(2, len(axes_of))
    for column, axis in enumerate(axes_of):
        points = sorted(
            (row for row in growth if row["parameters"]["against"] == axis),
            key=lambda row: row["parameters"][axis],
        )
        xs = [row["parameters"][axis] for row in points]
        for axes, key, limit in zip(
            panels[:, column],
            ("CPU ms", "peak MiB"),
            ([row["measured"]["at best ms"] for row in points], [*map(_least_mib, points)]),
            strict=True,
        ):
            axes.plot(xs, [row["measured"][key] for row in points], "o-", label=key)
            axes.plot(xs, limit, "--", label="limit")
            axes.set(xlabel=axis, ylabel=key)
            axes.set_ylim(bottom=0)
            axes.legend(fontsize=8)
        panels[0][column].set_title(_title(points, axis))
    figure.savefig(path)


def _least_mib(row: Row) -> float:
    """What scoring must hold: names [C, D] and scores [R, C] in float32, two sides in float16."""
    names, regions = (row["parameters"][key] for key in ("names", "regions"))
    return float((4 * names * _WIDTH + 2 * 2 * regions * _WIDTH + 4 * regions * names) / 2**20)


def _title(points: Rows, axis: str) -> str:
    if not points:
        return "not measured"
    asked: Mapping[str, Any] = points[0]["parameters"]
    others = (k for k in ("names", "regions", "attributes") if k != axis and asked[k])
    return f"{points[0]['row']}: " + ", ".join(f"{asked[k]:,} {k}" for k in others)


if __name__ == "__main__":
    draw(PLOT)
    PAGE.write_text(page(), encoding="utf-8")
