from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from run_builder import DrawnImage, DrawnLabel, build_run
from stub_model import StubLabeller, StubModel, draw_images

from vildcli.cli import run as vildcli
from vildcli.errors import DataError, RunError, VocabularyError
from vildcli.evaluation.leaks import doubts, leaks, trained_novel
from vildcli.labelling.label import LabellingJob, label_images
from vildcli.labelling.plan import read_plan, source_roots
from vildcli.labelling.records import (
    LabelledImage,
    done_units,
    iter_images,
    iter_labelled_images,
    part_path,
)
from vildcli.labelling.relabel import relabel_run
from vildcli.labelling.run import open_labelling_run
from vildcli.labelling.sources import find_images
from vildcli.labelling.thresholds import view_run
from vildcli.merging import runs as merging
from vildcli.merging.inputs import RunInput, open_inputs
from vildcli.merging.run_rows import RunParts
from vildcli.merging.runs import merge_runs
from vildcli.merging.summary import MergeSummary
from vildcli.runs import read_run
from vildcli.vocabulary.category import Category, Vocabulary
from vildcli.vocabulary.files import load_vocabulary

FRUIT = Vocabulary("fruit", (Category(1, "apple", threshold=0.4), Category(2, "pear")))
TABLEWARE = Vocabulary(
    "tableware", (Category(7, "plate"), Category(8, "Apple"), Category(2, "Pear"))
)
TABLES = ("regions", "labels", "images")


def image(name: str, *labels: DrawnLabel, content: str = "") -> DrawnImage:
    return DrawnImage(
        name, (96, 64), labels, hashlib.sha256((content or name).encode()).hexdigest()
    )


def label(category_id: int, score: float, *box: float) -> DrawnLabel:
    return DrawnLabel(category_id, score, (box[0], box[1], box[2], box[3]))


def merge(paths: Sequence[Path], out: Path, **choices: Any) -> MergeSummary:
    opened = open_inputs(paths)
    assert all(isinstance(source, RunInput) for source in opened)
    return merge_runs(opened, out, **choices)  # type: ignore[arg-type]


def labelled(run: Path) -> dict[str, LabelledImage]:
    return {found.image.path: found for found in iter_labelled_images(run)}


def said(run: Path, path: str) -> list[tuple[int, float, tuple[float, ...]]]:
    """Category, score and box of each label of an image, in order."""
    return [(la.category_id, round(la.score, 3), la.box) for la in labelled(run)[path].labels]


def shard_of(whole: Path, folder: Path, *units: int) -> Path:
    """A copy of a run that has finished those units only."""
    shutil.copytree(whole, folder)
    for unit in set(done_units(whole)) - set(units):
        for table in TABLES:
            part_path(folder, table, unit).unlink()
    return folder


NAMES = ("a.png", "b.png", "c.png", "d.png", "e.png")
FOUND = [image(name, label(1, 0.9, 4, 6, 40, 50)) for name in NAMES]
SERVED = [image(name, label(7, 0.8, 4, 6, 40, 50)) for name in NAMES]


def test_shards__become_the_run_that_one_machine_would_have_made(tmp_path: Path) -> None:
    whole = build_run(tmp_path / "whole", tmp_path / "photos", FOUND, vocabulary=FRUIT)
    shards = [shard_of(whole, tmp_path / "1", 0, 2), shard_of(whole, tmp_path / "2", 1)]
    summary = merge(shards, tmp_path / "out")
    assert (summary.images, summary.labels, summary.given) == (5, 5, {"1": 3, "2": 2})
    for unit in range(3):
        for table in TABLES:
            made, wanted = (part_path(r, table, unit) for r in (tmp_path / "out", whole))
            assert made.read_bytes() == wanted.read_bytes()
    ours, theirs = read_run(tmp_path / "out", "labelling"), read_run(whole, "labelling")
    assert (ours["fingerprint"], ours["settings"]) == (theirs["fingerprint"], theirs["settings"])
    assert [one["units"] for one in ours["arguments"]["merged"]] == ["2 of 3", "1 of 3"]
    assert summary.notes == ()
    again = merge(shards, tmp_path / "out")
    assert (again.labels, again.notes) == (5, ("3 units were merged before.",))


def test_shards__that_are_not_all_there_leave_a_run_to_be_continued(tmp_path: Path) -> None:
    whole = build_run(tmp_path / "whole", tmp_path / "photos", FOUND, vocabulary=FRUIT)
    shards = [shard_of(whole, tmp_path / "1", 0), shard_of(whole, tmp_path / "2", 1)]
    merge(shards, tmp_path / "out")
    assert (done_units(tmp_path / "out"), len(read_plan(tmp_path / "out"))) == ([0, 1], 5)
    late = shard_of(whole, tmp_path / "3", 2)
    summary = merge([*shards, late], tmp_path / "out")
    assert (summary.images, summary.kept) == (5, {"1": 0, "2": 0, "3": 1})
    assert summary.notes == ("2 units were merged before; the table counts the other 1.",)
    assert view_run(tmp_path / "out").is_complete


def test_shards__of_machines_that_had_the_images_elsewhere(tmp_path: Path) -> None:
    first = build_run(tmp_path / "1", tmp_path / "photos", FOUND, vocabulary=FRUIT, finished=1)
    shutil.move(tmp_path / "photos", tmp_path / "gone")
    second = build_run(tmp_path / "2", tmp_path / "here", FOUND, vocabulary=FRUIT)
    merge([first, second], tmp_path / "out")
    assert source_roots(tmp_path / "out") == {"photos": tmp_path / "here"}


def test_other_images__come_behind_those_of_the_first(tmp_path: Path) -> None:
    first = build_run(tmp_path / "1", tmp_path / "one", FOUND[:3], vocabulary=FRUIT)
    own = [image("a.png", label(2, 0.7, 5, 5, 30, 30), content="other a"), FOUND[2]]
    second = build_run(tmp_path / "2", tmp_path / "two", own, vocabulary=FRUIT)
    with pytest.raises(RunError) as caught:
        merge([first, second], tmp_path / "out")
    assert str(caught.value) == (
        "2 has 1 image that the runs before it lack, and their ids are taken: 1 is a.png there and "
        "a.png in 1."
    )
    assert caught.value.hint == "--renumber gives them new ids; exports of 2 keep the old ones."
    assert not (tmp_path / "out").exists()
    summary = merge([first, second], tmp_path / "out", renumber=True)
    rows = [(i.image_id, i.source, i.path) for i in iter_images(tmp_path / "out")]
    assert rows == [
        (1, "photos", "a.png"),
        (2, "photos", "b.png"),
        (3, "photos", "c.png"),
        (4, "photos-2", "a.png"),
    ]
    assert source_roots(tmp_path / "out")["photos-2"] == tmp_path / "two"
    # c.png is the same file in both, made alike: its labels are there once.
    assert (summary.labels, summary.kept) == (4, {"1": 3, "2": 1})
    assert (
        read_run(tmp_path / "out", "labelling")["settings"]
        == (read_run(first, "labelling")["settings"])
    )


def test_two_vocabularies__of_two_labels_on_one_place_the_better_stays(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    ours = [
        image("a.png", label(1, 0.9, 4, 6, 40, 50), label(2, 0.3, 50, 10, 90, 60)),
        image("b.png", label(2, 0.5, 10, 10, 20, 20), label(1, 0.2, 10, 10, 20, 20)),
    ]
    theirs = [
        image("a.png", label(7, 0.8, 5, 6, 40, 50), label(7, 0.6, 50, 10, 90, 58)),
        image("b.png", label(8, 0.4, 60, 40, 80, 60)),
    ]
    first = build_run(tmp_path / "1", photos, ours, vocabulary=FRUIT)
    second = build_run(tmp_path / "2", photos, theirs, vocabulary=TABLEWARE)
    summary = merge([first, second], tmp_path / "out")
    assert said(tmp_path / "out", "a.png") == [
        (1, 0.9, (4, 6, 40, 50)),
        (7, 0.6, (50, 10, 90, 58)),
    ]
    # A run's own labels never suppress each other; "Apple" is the first run's apple.
    assert said(tmp_path / "out", "b.png") == [
        (2, 0.5, (10, 10, 20, 20)),
        (1, 0.4, (60, 40, 80, 60)),
        (1, 0.2, (10, 10, 20, 20)),
    ]
    assert summary.left_out == {"under a better label of another input": 2}
    assert (summary.given, summary.kept) == ({"1": 4, "2": 3}, {"1": 3, "2": 2})
    numbers = [[la.label for la in found.labels] for found in labelled(tmp_path / "out").values()]
    assert numbers == [[0, 1], [0, 1, 2]]
    vocabulary = load_vocabulary(tmp_path / "out" / "vocabulary.yaml")
    assert [(c.id, c.name, c.threshold) for c in vocabulary.categories] == [
        (1, "apple", 0.4),
        (2, "pear", None),
        (7, "plate", None),
    ]
    assert vocabulary.name == "fruit + tableware"
    everything = merge([first, second], tmp_path / "all", nms_iou=1)
    assert (everything.labels, everything.left_out) == (7, {})


def test_two_vocabularies__labels_keep_masks_scores_and_attributes(tmp_path: Path) -> None:
    red = DrawnLabel(2, 0.6, (50, 10, 90, 60), False, (("colour", "red", 0.75),))
    coloured = replace(FRUIT, attributes={"colour": ("red", "green")})
    first = build_run(tmp_path / "1", tmp_path / "p", [image("a.png", red)], vocabulary=coloured)
    other = [image("a.png", label(7, 0.9, 0, 0, 20, 20))]
    second = build_run(tmp_path / "2", tmp_path / "p", other, vocabulary=TABLEWARE)
    merge([first, second], tmp_path / "out")
    (_, kept), (own,) = labelled(tmp_path / "out")["a.png"].labels, labelled(first)["a.png"].labels
    assert (kept.mask == own.mask).all()
    assert replace(kept, label=own.label, region=own.region, mask=own.mask) == own
    assert load_vocabulary(tmp_path / "out" / "vocabulary.yaml").attributes == coloured.attributes


def test_two_vocabularies__with_thresholds_of_their_own_models(tmp_path: Path) -> None:
    first = build_run(
        tmp_path / "1", tmp_path / "p", FOUND, vocabulary=FRUIT, arguments={"default_conf": 0.2}
    )
    second = build_run(
        tmp_path / "2",
        tmp_path / "p",
        SERVED[:1],
        vocabulary=TABLEWARE,
        arguments={"default_conf": 0.6},
    )
    merge([first, second], tmp_path / "out")
    assert dict(view_run(tmp_path / "out").thresholds) == {1: 0.4, 2: 0.2, 7: 0.6}


def test_an_id_of_two_categories__is_an_error_unless_it_may_change(tmp_path: Path) -> None:
    other = Vocabulary("other", (Category(1, "plum"), Category(5, "pear")))
    first = build_run(tmp_path / "1", tmp_path / "p", FOUND, vocabulary=FRUIT)
    drawn = [image("a.png", label(1, 0.95, 60, 2, 90, 30), label(5, 0.3, 0, 0, 9, 9))]
    second = build_run(tmp_path / "2", tmp_path / "p", drawn, vocabulary=other)
    with pytest.raises(VocabularyError) as caught:
        merge([first, second], tmp_path / "out")
    assert str(caught.value) == "The category id 1 is 'apple' in 1 and 'plum' in 2."
    assert caught.value.hint == (
        "--renumber gives 'plum' another id; exports of 2 keep the old one."
    )
    merge([first, second], tmp_path / "out", renumber=True)
    assert [row[0] for row in said(tmp_path / "out", "a.png")] == [6, 1, 2]


def test_a_file_that_changed_between_the_runs__is_an_error(tmp_path: Path) -> None:
    first = build_run(tmp_path / "1", tmp_path / "p", FOUND, vocabulary=FRUIT)
    second = build_run(
        tmp_path / "2", tmp_path / "p", [image("a.png", content="new")], vocabulary=TABLEWARE
    )
    with pytest.raises(DataError) as caught:
        merge([first, second], tmp_path / "out")
    new, old = (hashlib.sha256(text).hexdigest()[:12] for text in (b"new", b"a.png"))
    assert str(caught.value) == (
        f"a.png is another file in 2 than in 1: their SHA-256 are {new}… and {old}…."
    )


def test_an_image_that_one_run_could_not_read__is_the_others(tmp_path: Path) -> None:
    broken = replace(FOUND[0], size=None, sha256="", labels=())
    first = build_run(tmp_path / "1", tmp_path / "p", [broken, FOUND[1]], vocabulary=FRUIT)
    second = build_run(tmp_path / "2", tmp_path / "p", SERVED[:2], vocabulary=TABLEWARE)
    merge([first, second], tmp_path / "out")
    assert [i.status for i in iter_images(tmp_path / "out")] == ["ok", "ok"]
    assert len(said(tmp_path / "out", "a.png")) == 1
    assert not (tmp_path / "out" / "failed.jsonl").exists()


def test_images_that_nobody_has_done_yet__stay_to_be_done(tmp_path: Path) -> None:
    first = build_run(tmp_path / "1", tmp_path / "p", FOUND, vocabulary=FRUIT, finished=2)
    second = build_run(tmp_path / "2", tmp_path / "p", SERVED[:2], vocabulary=TABLEWARE)
    summary = merge([first, second], tmp_path / "out")
    view = view_run(tmp_path / "out")
    assert (summary.images, view.is_complete, view.progress_text) == (
        4,
        False,
        "1 of 2 units are done",
    )
    assert [i.image_id for i in view.images()] == [1, 2, 3, 4]
    assert summary.notes == (f"{tmp_path / 'out'} is not complete: 1 of 2 units are done.",)


def test_merge__goes_on_where_it_was_killed(tmp_path: Path, monkeypatch: Any) -> None:
    names = [f"{number:02}.png" for number in range(20)]
    ours = [image(name, label(1, 0.9, 4, 6, 40, 50)) for name in names]
    theirs = [image(name, label(7, 0.8, 50, 6, 90, 50)) for name in names]
    first = build_run(tmp_path / "1", tmp_path / "p", ours, vocabulary=FRUIT)
    second = build_run(tmp_path / "2", tmp_path / "p", theirs, vocabulary=TABLEWARE)
    merge([first, second], tmp_path / "whole")
    write, written = merging.write_part_table, []

    def killed(run: Path, table: str, unit: int, content: Any) -> None:
        if (table, unit) == ("labels", 1):
            raise KeyboardInterrupt
        written.append((table, unit))
        write(run, table, unit, content)

    monkeypatch.setattr(merging, "write_part_table", killed)
    with pytest.raises(KeyboardInterrupt):
        merge([first, second], tmp_path / "out")
    assert done_units(tmp_path / "out") == [0]
    monkeypatch.setattr(merging, "write_part_table", write)
    assert merge([first, second], tmp_path / "out").labels == 40
    for unit in range(2):
        for table in TABLES:
            made, wanted = (
                part_path(r, table, unit) for r in (tmp_path / "out", tmp_path / "whole")
            )
            assert made.read_bytes() == wanted.read_bytes()


def test_merge__out_that_holds_something_else(tmp_path: Path) -> None:
    first = build_run(tmp_path / "1", tmp_path / "p", FOUND, vocabulary=FRUIT)
    second = build_run(tmp_path / "2", tmp_path / "p", SERVED[:1], vocabulary=TABLEWARE)
    with pytest.raises(RunError) as caught:
        merge([first, second], first)
    assert str(caught.value) == f"{first} is one of the runs to merge."
    merge([first, second], tmp_path / "out")
    with pytest.raises(RunError) as caught:
        merge([first, second], tmp_path / "out", nms_iou=0.5)
    assert "holds a run with other settings (nms_iou: 0.6 there, 0.5 now)" in str(caught.value)
    more = build_run(tmp_path / "3", tmp_path / "p", [*FOUND, image("z.png")], vocabulary=FRUIT)
    merge([first, more], tmp_path / "like")
    less = build_run(tmp_path / "4", tmp_path / "p", FOUND[:2], vocabulary=FRUIT)
    with pytest.raises(RunError) as caught:
        merge([first, less], tmp_path / "like")
    assert str(caught.value) == f"{tmp_path / 'like'} holds a merge of other images."


def test_a_run_of_a_newer_format__is_refused(tmp_path: Path) -> None:
    first = build_run(tmp_path / "1", tmp_path / "p", FOUND, vocabulary=FRUIT)
    second = build_run(tmp_path / "2", tmp_path / "p", FOUND, vocabulary=FRUIT)
    header = json.loads((second / "run.json").read_text())
    header["settings"]["record_format"] = 2
    (second / "run.json").write_text(json.dumps(header))
    with pytest.raises(RunError) as caught:
        open_inputs([first, second])
    assert str(caught.value) == f"{second} has format 2; this vildcli reads up to 1."
    with pytest.raises(RunError) as caught:
        open_inputs([first, first])
    assert str(caught.value) == f"{first} is given twice."


def test_provenance__of_every_model_is_still_held_against_zero_shot(tmp_path: Path) -> None:
    seen = {"init": "imagenet", "proposals": "torchvision maskrcnn"}
    first = build_run(
        tmp_path / "1", tmp_path / "p", FOUND, vocabulary=FRUIT, arguments={"provenance": seen}
    )
    blank = {"init_provenance": {"init": "scratch", "trained_on": ["plate"]}}
    second = build_run(
        tmp_path / "2",
        tmp_path / "p",
        SERVED[:1],
        vocabulary=TABLEWARE,
        arguments={"provenance": blank},
    )
    merge([first, second], tmp_path / "out")
    found = read_run(tmp_path / "out", "labelling")["arguments"]["provenance"]
    assert leaks(found, "lvis") == [
        "The proposer of the model of 1 has seen boxes of COCO's 80 categories, on COCO train2017, "
        "where LVIS val images lie too."
    ]
    assert doubts(found) == []
    assert trained_novel({7: Category(7, "plate")}, {}, found) == [
        "The initialisation of the model of 2 was trained on boxes of 1 of the 1 novel categories: "
        "plate."
    ]


def test_parts__a_few_units_in_memory(tmp_path: Path) -> None:
    images = [image(f"{k:02}.png", label(1, 0.5, 1, 1, 9, 9)) for k in range(30)]
    run = build_run(tmp_path / "1", tmp_path / "p", images, vocabulary=FRUIT)
    (opened,) = open_inputs([run])
    assert isinstance(opened, RunInput)
    parts = RunParts(opened, read_plan(run), {1: 1})
    for number in range(1, 31):
        assert parts.rows(number).labels.num_rows == 1
    assert len(parts._units) == 4


def test_names__tell_inputs_apart(tmp_path: Path) -> None:
    for machine in ("one", "two"):
        build_run(tmp_path / machine / "photos", tmp_path / "p", FOUND, vocabulary=FRUIT)
    opened = open_inputs([tmp_path / machine / "photos" for machine in ("one", "two")])
    assert [source.name for source in opened] == ["one/photos", "two/photos"]
    (alone,) = open_inputs([tmp_path / "one" / "photos"])
    assert alone.name == "photos"


def detected(folder: Path, photos: Path, names: str = "fruit") -> Path:
    settings = {"names": names, "keep_regions": True}
    vocabulary = Vocabulary("fruit", (Category(1, "apple"), Category(2, "pear")))
    run = open_labelling_run(folder, find_images([str(photos)]), settings, vocabulary).folder
    model = StubModel()
    label_images(run, model, LabellingJob(keep_regions=True))
    model.save_head(run)
    return run


def relabelled(run: Path, out: Path) -> dict[str, list[tuple[float, ...]]]:
    vocabulary = Vocabulary("one", (Category(1, "thing"),))
    relabel_run(run, StubLabeller(1), out, settings={"names": "one"}, vocabulary=vocabulary)
    return {path: [la.box for la in found.labels] for path, found in labelled(out).items()}


def test_merged_run__can_be_relabelled_where_all_have_one_head(tmp_path: Path) -> None:
    first = detected(tmp_path / "1", draw_images(tmp_path / "photos", 20))
    other = draw_images(tmp_path / "more", 23)
    second = detected(tmp_path / "2", other, names="other words")
    merge([first, second], tmp_path / "out", renumber=True)
    assert len(labelled(tmp_path / "out")) == 23  # the first twenty are the same files
    again = relabelled(tmp_path / "out", tmp_path / "again")
    whole = relabelled(second, tmp_path / "whole")
    assert {path: sorted(boxes) for path, boxes in again.items()} == (
        {path: sorted(boxes) for path, boxes in whole.items()}
    )
    # One head, one image: what both found is one region, and not two.
    assert part_path(tmp_path / "out", "regions", 0).exists()
    assert {len(boxes) for boxes in again.values()} == {2}


def test_merged_run__of_two_heads_says_that_it_cannot_be_relabelled(tmp_path: Path) -> None:
    photos = draw_images(tmp_path / "photos", 3)
    first, second = detected(tmp_path / "1", photos), detected(tmp_path / "2", photos, "other")
    (second / "regions" / "head.safetensors").write_bytes(b"another")
    summary = merge([first, second], tmp_path / "out")
    assert summary.notes == (
        "Region embeddings are left out, as the runs have none or others: the result cannot be "
        "relabelled.",
    )
    with pytest.raises(RunError) as caught:
        relabelled(tmp_path / "out", tmp_path / "again")
    assert str(caught.value) == f"{tmp_path / 'out'} has no stored region embeddings."


def test_merged_run__is_exported_with_its_own_ids_and_denies_nothing(tmp_path: Path) -> None:
    photos = tmp_path / "p"
    first = build_run(tmp_path / "1", photos, FOUND, vocabulary=FRUIT)
    other = [image("a.png", label(7, 0.8, 60, 10, 90, 30))]
    second = build_run(tmp_path / "2", photos, other, vocabulary=TABLEWARE)
    code = vildcli(["merge", str(first), str(second), "--out", str(tmp_path / "out")])
    assert code == 0
    assert vildcli(["export", str(tmp_path / "out"), "--to", "lvis"]) == 0
    content = json.loads((tmp_path / "out" / "lvis.json").read_text())
    found = [(row["image_id"], row["category_id"]) for row in content["annotations"]]
    assert found == [(1, 1), (1, 7), (2, 1), (3, 1), (4, 1), (5, 1)]
    # b.png was never searched for plates, so that nothing says it has none.
    assert {tuple(row["neg_category_ids"]) for row in content["images"]} == {()}
    assert vildcli(["export", "--check", str(tmp_path / "out" / "lvis.json")]) == 0
