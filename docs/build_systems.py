"""Writes docs/systems.md from the systems, the recipes and the published numbers: `make docs`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from vildcli.evaluation.published import PublishedNumber, published_numbers
from vildcli.systems import SYSTEMS, System
from vildcli.training.recipe import RECIPES, Recipe

PAGE = Path(__file__).with_name("systems.md")
_DATA = "--train lvis_v1_train.json --images coco"
_SIDES = {
    None: "–",
    "student": "student head",
    "shared": "the same head",
    "teacher": "teacher on 1x + 1.5x crops",
    "classifier": "linear classifier",
}
_FUSED = {
    "text": "softmax with background",
    "image": "softmax",
    "classifier": "softmax with background",
    "ensemble": "geometric mean, ⅔ base, ⅓ novel",
}
_HEAD = """
# Systems

Made by `make docs` from `vildcli/systems.py`, `vildcli/training/recipe.py` and
`vildcli/evaluation/published.yaml`; do not edit. `vildcli train --list` prints the same tables.

The rows differ in where a region's embeddings come from, what is trained, and how two scores are
fused. Backbone (`small`, `resnet50`, `resnet152`, `efficientnet_b7`), teacher, prompts and recipe
are options of every row. `--backbone ezsd` and `detpro` are an R50 with the heads of those two.
"""
_COMMANDS = """
## On LVIS v1, R50-FPN

AP is mask AP on LVIS v1 val, in percent, as published; rare categories are the novel ones. None of
these commands was run on LVIS here: it and a GPU are needed. `AP_r` of one recipe moves by 0.5 to
1.5 between seeds. What was measured on the small world stands in [results.md](results.md).
"""
_RECIPES = """
## Recipes

The published schedule is meant to drop three times; the released configuration lists two rates for
three steps, so that its third drop never happens. `paper` drops three times. It takes its means
over each process's own share of the batch, as published; the others over the whole batch
(`--shared-means`). `detpro-20e` is DetPro's schedule of ViLD\\*, which starts from SoCo weights:
`--init imagenet` is the nearest start that there is here, and no port reports it as matching.
`one-gpu` is ours, meant for a day on one GPU with `--init imagenet`, and has not been run.
"""
_EZSD = """
## EZSD's parts

Three parts, of which each can be had alone with any row that is trained against words:

- **the teacher adapted** to base ground truth: `vildcli teach --adapt`, then
  `--teacher local-dir:runs/adapted` wherever a teacher is asked for;
- **regions that the teacher chooses**, distilled with its confidence as weight, beside base ground
  truth: `vildcli teach --proposals teacher`, then `--teacher-cache` (`--equal-regions` leaves the
  weights out). It chooses among anchors, or with `--among MODEL` in a tenth of the time among the
  proposals of a class-agnostic detector ([measured](results.md));
- **boxes that depend on the name**: `--semantic-boxes`; τ is learned by `--learn-temperature`.

`--names` says which names are known at training time: those of novel categories too, as published,
or the base ones alone. No novel box is looked at in either. As published (2 V100), for COCO 48/17
and for LVIS:

```
vildcli teach --adapt --data instances_train2017.json --images train2017 --base coco-48 \\
    --out runs/adapted
vildcli teach --proposals teacher --data instances_train2017.json --images train2017 \\
    --base coco-48 --names coco --pick unlike-base --regions 300 \\
    --teacher local-dir:runs/adapted --out runs/chosen
torchrun --nproc_per_node 2 -m vildcli train --system ezsd --recipe ezsd-coco --base coco-48 \\
    --train instances_train2017.json --images train2017 --backbone ezsd --init imagenet \\
    --teacher local-dir:runs/adapted --teacher-cache runs/chosen --out runs/ezsd-coco

vildcli teach --adapt --adapt-towers vision --epochs 18 --data lvis_v1_train.json --images coco \\
    --out runs/adapted
vildcli teach --proposals teacher --data lvis_v1_train.json --images coco --pick random \\
    --regions 500 --teacher local-dir:runs/adapted --out runs/chosen
torchrun --nproc_per_node 2 -m vildcli train --system ezsd --recipe ezsd-lvis \\
    --train lvis_v1_train.json --images coco --backbone ezsd --init imagenet \\
    --teacher local-dir:runs/adapted --teacher-cache runs/chosen --out runs/ezsd-lvis
```

None of these was run here. `--backbone ezsd` is torchvision's R50 with a pyramid without norms and
EZSD's head: 3 convolutions that boxes and embeddings share, then 1 and 2 layers that each has of
its own. What is distilled is 200 of the regions kept, drawn with replacement, and all base ground
truth. `ezsd-lvis` has Seesaw loss (p 0.8, q 2), which `--class-loss seesaw` brings to any row that
is trained against words.

| | `ezsd-coco` | `ezsd-lvis` |
|---|--:|--:|
"""
_SWEEP = """
## Distillation: loss and weight

`--distill-loss l1|l2 --distill-weight W` on `vild`, as published (R50):
"""
_HOURS = "not measured"  # on LVIS, which no run of ours has seen yet


def page() -> str:
    """The whole page."""
    parts = (
        *(_HEAD, _systems(), _COMMANDS, _commands(), _RECIPES, _recipes()),
        *(_EZSD, _ezsd(), _SWEEP, _sweep()),
    )
    return "\n".join(p.strip("\n") if isinstance(p, str) else "\n".join(p) for p in parts) + "\n"


def _systems() -> Iterator[str]:
    yield ""
    yield "| system | text side | image side | trained with | score |"
    yield "|---|---|---|---|---|"
    for row in SYSTEMS.values():
        text, image = _SIDES[row.text_side], _SIDES[row.image_side]
        if row.words == "glove":
            text += ", against GloVe"
        if row.semantic_boxes:
            text += ", whose name moves the box"
        yield f"| `{row.name}` | {text} | {image} | {_trained_with(row)} | {_FUSED[row.fusion]} |"
    yield ""


def _trained_with(row: System) -> str:
    if not row.trained:
        return "cross-entropy (as vild-text)" if row.text_side else "nothing"
    losses = ["cross-entropy"] if row.text_side else []
    kind = "w · weighted L1 distillation" if row.teacher_regions else "w · L1 distillation"
    losses += [kind] if row.distilled else []
    return " + ".join(losses) + (", rare images repeated" if row.repeat_factors else "")


def _commands() -> Iterator[str]:
    yield ""
    for row in SYSTEMS.values():
        yield f"### {row.name}"
        yield ""
        yield "```"
        yield from _command(row)
        yield "```"
        yield ""
        aims = [_aim(n) for n in _numbers(row.name) if not n.sweep]
        yield f"Hours: {_HOURS}. Published: " + ("; ".join(aims) if aims else "nothing") + "."
        yield ""


def _command(row: System) -> Iterator[str]:
    if row.name == "vild-text-clip":
        yield "vildcli detect PHOTOS --model runs/vild-text --vocab lvis-v1 \\"
        yield "    --teacher ViT-B-32:openai"
        return
    if row.name == "clip-on-crops":
        yield "vildcli detect PHOTOS --model clip-on-crops --vocab lvis-v1 \\"
        yield "    --proposals runs/vild-text"
        return
    if row.teacher_regions:
        yield "# the published commands, COCO's and LVIS's: below, under EZSD's parts"
        yield "vildcli teach --adapt --data lvis_v1_train.json --images coco --out runs/adapted"
        yield f"vildcli train --system {row.name} --backbone ezsd --recipe ezsd-lvis \\"
        yield f"    --teacher local-dir:runs/adapted {_DATA} --out runs/{row.name}"
        return
    extra = " --text-encoder glove:glove.6B.300d.txt" if row.words == "glove" else ""
    extra += " --base all" if row.repeat_factors else ""
    yield (
        f"torchrun --nproc_per_node 8 -m vildcli train --system {row.name} --backbone resnet50 "
        f"--recipe paper{extra} \\"
    )
    yield f"    {_DATA} --out runs/{row.name}"
    if row.name == "supervised":
        yield "# base + novel, as the paper's second row: --base all"


def _numbers(system: str) -> list[PublishedNumber]:
    return [
        n
        for n in published_numbers()
        if (n.protocol, n.measure, n.system) == ("lvis", "Mask AP", system)
    ]


def _aim(number: PublishedNumber) -> str:
    values = ", ".join(f"{key} {value:g}" for key, value in number.values.items())
    return f"{values} ({number.label})"


def _recipes() -> Iterator[str]:
    yield ""
    yield "| recipe | length | batch | rate | warm-up | drops | decay | images | norms | repeats |"
    yield "|---|---|--:|---|--:|---|---|---|---|---|"
    for name, recipe in RECIPES.items():
        yield _recipe_row(name, recipe)
    yield ""


def _recipe_row(name: str, recipe: Recipe) -> str:
    length = f"{recipe.steps:,} steps" if recipe.steps else f"{recipe.epochs} epochs"
    drops = ", ".join(f"{drop:g}" for drop in recipe.drops) or "cosine"
    norms = "synchronised" if recipe.synchronised_norms else "of each process"
    if recipe.frozen_norms != "none":
        norms += f", {recipe.frozen_norms} frozen"
    repeats = "–" if recipe.repeat_threshold is None else f"{recipe.repeat_threshold:g}"
    cells = (
        f"`{name}`",
        length,
        recipe.batch,
        f"{recipe.optimiser}, {recipe.learning_rate:g}, {recipe.precision}",
        recipe.warmup_steps,
        drops,
        f"{recipe.weight_decay:g}",
        _images(recipe),
        norms,
        repeats,
    )
    return f"| {' | '.join(map(str, cells))} |"


def _images(recipe: Recipe) -> str:
    if recipe.multi_scale is None:
        return f"jitter {recipe.jitter[0]:g} to {recipe.jitter[1]:g}"
    shortest, longest, long_side = recipe.multi_scale
    return f"short side {shortest} to {longest}, long at most {long_side}"


def _ezsd() -> Iterator[str]:
    """What the two recipes say of the losses."""
    coco, lvis = RECIPES["ezsd-coco"], RECIPES["ezsd-lvis"]
    rows = {
        "w, of the distillation": (coco.distillation_weight, lvis.distillation_weight),
        "weight of the box losses": (coco.box_weight, lvis.box_weight),
        "class loss": (coco.class_loss, lvis.class_loss),
        "gradient's norm at most": (coco.clip_norm, lvis.clip_norm),
        "regions distilled, besides ground truth": (
            coco.distilled_regions,
            lvis.distilled_regions,
        ),
    }
    for words, values in rows.items():
        yield f"| {words} | {' | '.join(str(v) for v in values)} |"
    yield ""


def _sweep() -> Iterator[str]:
    yield ""
    yield "| loss, w | AP_r | AP_c | AP_f | AP |"
    yield "|---|--:|--:|--:|--:|"
    for number in published_numbers():
        if number.sweep and number.measure == "Mask AP":
            values = " | ".join(f"{number.values[k]:g}" for k in ("APr", "APc", "APf", "AP"))
            yield f"| {number.setting.removeprefix('R50, ')} | {values} |"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
