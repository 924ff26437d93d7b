from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from pycocotools.coco import COCO
from run_builder import DrawnImage, DrawnLabel, build_run

from vildcli.cli import run as vildcli
from vildcli.data.lvis import load_annotations
from vildcli.errors import DataError, RunError, VocabularyError
from vildcli.evaluation.run import read_evaluated_run
from vildcli.evaluation.truth import load_truth
from vildcli.export.checks import check_export
from vildcli.export.coco import export_coco
from vildcli.export.selection import Selection
from vildcli.export.voc import export_voc
from vildcli.labelling.thresholds import view_run
from vildcli.merging import annotations as merging
from vildcli.merging.annotations import merge_annotations
from vildcli.merging.inputs import open_inputs
from vildcli.merging.summary import MergeSummary
from vildcli.vocabulary.category import Category, Vocabulary

FRUIT = Vocabulary("fruit", (Category(1, "apple"), Category(2, "pear"), Category(3, "plum")))
FOUND = (
    DrawnLabel(1, 0.9, (4.25, 6, 40, 50)),  # what a person drew as well
    DrawnLabel(2, 1 / 3, (50, 10, 90, 60)),
    DrawnLabel(3, 0.8, (0, 0, 10, 10)),
    DrawnLabel(1, 0.1, (60, 0, 90, 9)),  # below the threshold of 0.3
)


def drawn(name: str, labels: Sequence[DrawnLabel] = FOUND, size: Any = (96, 64)) -> DrawnImage:
    return DrawnImage(name, size, labels, hashlib.sha256(name.encode()).hexdigest())


@pytest.fixture
def run(tmp_path: Path) -> Path:
    images = [drawn("a.png"), drawn("deep/b.png", FOUND[:2])]
    return build_run(tmp_path / "machine", tmp_path / "photos", images, vocabulary=FRUIT)


def person(number: int, image: int, category: int, *bbox: float, **more: Any) -> dict[str, Any]:
    x, y, w, h = bbox
    corners = [x, y, x + w, y, x + w, y + h, x, y + h]
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "bbox": list(bbox),
        "area": w * h,
        "segmentation": [corners],
        "iscrowd": 0,
        **more,
    }


APPLE = person(70, 51, 1, 4, 6, 36, 44, note="seen twice")
PEOPLE = {
    "images": [
        {"id": 51, "file_name": "a.png", "width": 96, "height": 64, "licence": 3},
        {"id": 52, "file_name": "c.png", "width": 20, "height": 30},
    ],
    "annotations": [APPLE, person(71, 52, 9, 1, 2, 10, 11)],
    "categories": [{"id": 1, "name": "apple"}, {"id": 9, "name": "melon", "supercategory": "x"}],
}


def write(path: Path, content: Mapping[str, Any] = PEOPLE, **changes: Any) -> Path:
    path.write_text(json.dumps({**content, **changes}))
    return path


def merge(paths: Sequence[Path], out: Path, **choices: Any) -> tuple[dict[str, Any], MergeSummary]:
    summary = merge_annotations(open_inputs(paths), out, **choices)
    return json.loads(out.read_text()), summary


def rows_of(content: Mapping[str, Any], image_id: int) -> list[tuple[str, int, float | None]]:
    """Who, category and score of each annotation of an image, in the order of the file."""
    rows = [row for row in content["annotations"] if row["image_id"] == image_id]
    return [(row["by"], row["category_id"], row.get("score")) for row in rows]


def test_merge__people_first_and_what_they_leave_free(tmp_path: Path, run: Path) -> None:
    people = write(tmp_path / "people.json")
    content, summary = merge([run, people], tmp_path / "out.json")
    assert rows_of(content, 51) == [
        ("person", 1, None),
        ("machine", 3, 0.8),
        ("machine", 2, pytest.approx(1 / 3, abs=1e-7)),
    ]
    assert content["annotations"][0] == {**APPLE, "by": "person", "source": "people"}
    assert rows_of(content, 2) == [
        ("machine", 1, 0.9),
        ("machine", 2, pytest.approx(1 / 3, abs=1e-7)),
    ]
    assert rows_of(content, 52) == [("person", 9, None)]
    assert (summary.given, summary.kept) == (
        {"people": 2, "machine": 6},
        {"people": 2, "machine": 4},
    )
    assert summary.left_out == {"below the threshold": 1, "where a person drew": 1}


def test_merge__ids_are_peoples(tmp_path: Path, run: Path) -> None:
    content, _ = merge([run, write(tmp_path / "people.json")], tmp_path / "out.json")
    images = [(row["id"], row["file_name"]) for row in content["images"]]
    assert images == [(51, "a.png"), (52, "c.png"), (2, "deep/b.png")]
    assert content["images"][0] == PEOPLE["images"][0]
    categories = [(row["id"], row["name"]) for row in content["categories"]]
    assert categories == [(1, "apple"), (9, "melon"), (2, "pear"), (3, "plum")]
    assert content["categories"][1] == PEOPLE["categories"][1]
    numbers = [row["id"] for row in content["annotations"]]
    assert numbers == [70, 72, 73, 74, 75, 71]


def test_merge__machines_keep_masks_scores_and_numbers(tmp_path: Path, run: Path) -> None:
    content, _ = merge([run, write(tmp_path / "people.json")], tmp_path / "out.json")
    export_coco(Selection(view_run(run)), tmp_path / "export.json")
    exported = json.loads((tmp_path / "export.json").read_text())["annotations"]
    own = {(row["image_id"], row["vildcli_label"]): row for row in exported}
    rows = [row for row in content["annotations"] if row["by"] == "machine"]
    for row in rows:
        wanted = own[1 if row["image_id"] == 51 else 2, row["vildcli_label"]]
        ids = {"id": row["id"], "image_id": row["image_id"], "by": "machine", "source": "machine"}
        assert row == {**wanted, **ids}
    assert len(rows) == 4


@pytest.mark.parametrize(
    ("existing", "expected"),
    [
        ("skip", [("person", 1)]),
        ("merge", [("person", 1), ("machine", 3), ("machine", 2)]),
        ("replace", [("machine", 1), ("machine", 3), ("machine", 2)]),
    ],
)
def test_existing(tmp_path: Path, run: Path, existing: Any, expected: Any) -> None:
    people = write(tmp_path / "people.json")
    content, summary = merge([people, run], tmp_path / "out.json", existing=existing)
    assert [row[:2] for row in rows_of(content, 51)] == expected
    assert rows_of(content, 52) == [("person", 9, None)]  # no machine saw it
    why = {
        "skip": {"on images that people labelled": 3},
        "merge": {"where a person drew": 1},
        "replace": {"of a person, on images that a machine labelled": 1},
    }
    assert summary.left_out == {"below the threshold": 1, **why[existing]}


def test_existing__inside_a_crowd_nothing_of_a_machine_stays(tmp_path: Path, run: Path) -> None:
    crowd = person(70, 51, 1, 0, 0, 96, 64, iscrowd=1)
    people = write(tmp_path / "people.json", annotations=[crowd])
    content, _ = merge([people, run], tmp_path / "out.json")
    assert rows_of(content, 51) == [("person", 1, None)]


def test_reviewed_images__what_people_took_away_stays_away(tmp_path: Path, run: Path) -> None:
    fingerprint = json.loads((run / "run.json").read_text())["fingerprint"]
    info = {"run": fingerprint, "reviewed": True}
    kept = person(5, 1, 3, 0, 0, 10, 10, changes=[])
    images = [
        {"id": 1, "file_name": "a.png", "width": 96, "height": 64},
        {"id": 2, "file_name": "deep/b.png", "width": 96, "height": 64},
    ]
    categories = [{"id": c.id, "name": c.name} for c in FRUIT.categories]
    pulled = {"info": info, "images": images, "annotations": [kept], "categories": categories}
    people = write(tmp_path / "pulled.json", pulled)
    content, summary = merge([people, run], tmp_path / "out.json")
    assert content["annotations"] == [{**kept, "by": "person", "source": "pulled"}]
    assert summary.left_out == {"below the threshold": 1, "that people have reviewed": 5}
    # What was merged remembers it, image by image.
    assert [row["reviewed_runs"] for row in content["images"]] == [[fingerprint], [fingerprint]]
    for sources in ([tmp_path / "out.json", run], [run, tmp_path / "out.json"]):
        again, _ = merge(sources, tmp_path / "again.json", force=True)
        assert [row["id"] for row in again["annotations"]] == [5]
        assert again["images"] == content["images"]
    # Another run's labels are news, of which people have said nothing but what they drew.
    other = (DrawnLabel(1, 0.9, (50, 10, 90, 60)),)
    second = build_run(
        tmp_path / "second",
        tmp_path / "photos",
        [drawn("deep/b.png", other)],
        vocabulary=Vocabulary("other", (Category(1, "apple"),)),
    )
    content, _ = merge([people, run, second], tmp_path / "more.json")
    assert rows_of(content, 2) == [("machine", 1, 0.9)]
    content, _ = merge([people, run, second], tmp_path / "skip.json", existing="skip")
    assert rows_of(content, 2) == []
    content, _ = merge([people, run], tmp_path / "replaced.json", existing="replace")
    assert len(content["annotations"]) == 5
    assert "reviewed_runs" not in content["images"][0]


LVIS = {
    **PEOPLE,
    "images": [
        {**PEOPLE["images"][0], "neg_category_ids": [4], "not_exhaustive_category_ids": [1]},
        {**PEOPLE["images"][1], "neg_category_ids": [1], "not_exhaustive_category_ids": []},
    ],
    "categories": [
        {"id": 1, "name": "apple", "frequency": "f", "image_count": 9, "instance_count": 9},
        {"id": 4, "name": "plum", "frequency": "r", "image_count": 0, "instance_count": 0},
        {"id": 9, "name": "melon", "frequency": "c", "image_count": 1, "instance_count": 1},
    ],
}


def test_lvis__what_a_person_said_is_not_there_is_not(tmp_path: Path, run: Path) -> None:
    people = write(tmp_path / "people.json", LVIS)
    content, summary = merge([people, run], tmp_path / "out.json")
    # Plums are 3 in the run and 4 for people, who saw none.
    assert [row[1] for row in rows_of(content, 51)] == [1, 2]
    assert summary.left_out["of what a person said is not there"] == 1
    lists = {
        row["id"]: (row["neg_category_ids"], row["not_exhaustive_category_ids"])
        for row in content["images"]
    }
    assert lists == {51: ([4], [1, 2]), 52: ([1], []), 2: ([], [1, 2])}
    counts = {r["name"]: (r["image_count"], r["instance_count"]) for r in content["categories"]}
    assert counts == {"apple": (2, 2), "plum": (0, 0), "melon": (1, 1), "pear": (2, 2)}
    assert check_export(tmp_path / "out.json", "lvis") == ("lvis", [])
    assert load_truth(tmp_path / "out.json").protocol.name == "lvis"


def test_lvis__one_coco_file_among_them_makes_it_coco(tmp_path: Path) -> None:
    other = {**PEOPLE["images"][0], "file_name": "z.png"}
    paths = [
        write(tmp_path / "lvis.json", LVIS),
        write(tmp_path / "coco.json", images=[other], annotations=[]),
    ]
    merge(paths, tmp_path / "out.json", renumber=True)
    assert load_truth(tmp_path / "out.json").protocol.name == "coco"


def test_two_people__one_object_once_and_other_opinions_both(tmp_path: Path) -> None:
    first = write(tmp_path / "first.json")
    again = person(70, 51, 1, 4, 7, 36, 44)
    other = person(71, 51, 9, 4, 7, 36, 44)
    second = write(tmp_path / "second.json", annotations=[again, other])
    content, summary = merge([first, second], tmp_path / "out.json")
    rows = [(row["id"], row["source"], row["category_id"]) for row in content["annotations"]]
    assert rows == [(70, "first", 1), (71, "second", 9), (72, "first", 9)]
    assert summary.left_out == {"drawn by two people": 1}


def test_two_machines__the_better_label_stays(tmp_path: Path, run: Path) -> None:
    other = Vocabulary("dishes", (Category(7, "plate"), Category(1, "apple")))
    found = (DrawnLabel(7, 0.95, (4, 6, 40, 50)), DrawnLabel(7, 0.31, (50, 10, 90, 60)))
    second = build_run(
        tmp_path / "2", tmp_path / "photos", [drawn("a.png", found)], vocabulary=other
    )
    content, summary = merge([run, second], tmp_path / "out.json")
    assert [(c, round(s or 0, 2)) for _, c, s in rows_of(content, 1)] == [
        (7, 0.95),
        (3, 0.8),
        (2, 0.33),
    ]
    assert summary.left_out["under a better label of another input"] == 2


def test_scores_of_another_tool__are_a_machines_and_say_where_from(tmp_path: Path) -> None:
    scored = {**PEOPLE, "annotations": [{**APPLE, "score": 0.5}]}
    first = write(tmp_path / "other tool.json", scored)
    content, _ = merge([write(tmp_path / "people.json"), first], tmp_path / "out.json")
    assert [row["by"] for row in content["annotations"]] == ["person", "person"]
    content, _ = merge([first, write(tmp_path / "c.json", annotations=[])], tmp_path / "out2.json")
    (row,) = content["annotations"]
    assert (row["by"], row["score"], row["source"]) == ("machine", 0.5, "other tool")


def test_provenance__of_inputs_and_of_what_they_were_merged_from(tmp_path: Path, run: Path) -> None:
    people = write(tmp_path / "people.json")
    content, _ = merge([run, people], tmp_path / "out.json")
    digest = hashlib.sha256(people.read_bytes()).hexdigest()
    own, machine = content["info"]["inputs"]
    assert own == {
        "source": "people",
        "kind": "annotation set",
        "file": "people.json",
        "sha256": digest,
    }
    header = json.loads((run / "run.json").read_text())
    assert machine == {
        "source": "machine",
        "kind": "labelling run",
        "fingerprint": header["fingerprint"],
        "vocabulary": "fruit",
    }
    more = write(tmp_path / "more.json", images=[], annotations=[])
    again, _ = merge([tmp_path / "out.json", more], tmp_path / "again.json")
    assert again["info"]["inputs"][0]["inputs"] == [own, machine]
    assert {row["source"] for row in again["annotations"]} == {"out/people", "out/machine"}
    assert rows_of(again, 51) == rows_of(content, 51)


def test_merged_set__is_read_by_others_and_by_ourselves(tmp_path: Path, run: Path) -> None:
    out = tmp_path / "out.json"
    merge([run, write(tmp_path / "people.json")], out)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(out))
    assert len(coco.anns) == 6
    assert check_export(out) == ("coco", [])
    assert len(load_annotations(out).images) == 3
    found = read_evaluated_run(run, load_truth(out))
    assert len(found.image_ids) == 2


def test_merged_set__trains(tmp_path: Path) -> None:
    from tiny_training import tiny_set, write_images  # noqa: F401

    truth = write_images(tmp_path / "set", 2)
    content = json.loads(truth.read_text())
    found = [DrawnLabel(1, 0.9, (2, 30, 12, 44))]
    images = [DrawnImage(f"{i}.png", (60, 50), found) for i in range(2)]
    vocabulary = Vocabulary("v", (Category(1, "peach"),))
    run = build_run(tmp_path / "run", tmp_path / "drawn", images, vocabulary=vocabulary)
    merged, _ = merge([truth, run], tmp_path / "set" / "merged.json")
    assert len(merged["annotations"]) == len(content["annotations"]) + 2
    from vildcli.data.checks import check_training_data

    annotations = load_annotations(tmp_path / "set" / "merged.json")
    checked, dropped = check_training_data(
        annotations, tmp_path / "set", [1, 10, 20], drop_degenerate=False
    )
    assert (len(checked.annotations[1]), dropped) == (3, 0)


def test_images_of_other_names__match_by_hash_under_images(tmp_path: Path, run: Path) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir()
    (folder / "renamed.png").write_bytes((tmp_path / "photos" / "a.png").read_bytes())
    digest = hashlib.sha256((folder / "renamed.png").read_bytes()).hexdigest()
    images = [DrawnImage("a.png", (96, 64), FOUND, digest)]
    known = build_run(tmp_path / "known", tmp_path / "photos", images, vocabulary=FRUIT)
    row = {**PEOPLE["images"][0], "file_name": "renamed.png"}
    people = write(tmp_path / "people.json", images=[row], annotations=[APPLE])
    (folder / "a.png").symlink_to(tmp_path / "photos" / "a.png")
    content, _ = merge([known, people], tmp_path / "out.json", images_root=folder)
    assert [row["file_name"] for row in content["images"]] == ["renamed.png"]
    assert len(rows_of(content, 51)) == 3


def test_an_image_of_two_sizes(tmp_path: Path, run: Path) -> None:
    row = {**PEOPLE["images"][0], "width": 64, "height": 96}
    people = write(tmp_path / "people.json", images=[row], annotations=[APPLE])
    with pytest.raises(DataError) as caught:
        merge([run, people], tmp_path / "out.json")
    assert str(caught.value) == "a.png is 96 x 64 pixels in machine, and 64 x 96 in people."
    assert caught.value.hint == (
        "Merge labels of the very same images, not of scaled, turned or changed ones."
    )
    assert not (tmp_path / "out.json").exists()


def test_an_image_whose_size_nobody_wrote_down(tmp_path: Path, run: Path) -> None:
    row = {**PEOPLE["images"][0], "width": 0, "height": 0}
    people = write(tmp_path / "people.json", images=[row], annotations=[APPLE])
    content, _ = merge([run, people], tmp_path / "out.json")
    assert len(rows_of(content, 51)) == 3


def test_voc__people_who_use_it_take_part(tmp_path: Path, run: Path) -> None:
    export_voc(Selection(view_run(run)), tmp_path / "voc")
    for file in (tmp_path / "voc" / "Annotations").rglob("*.xml"):
        text = re.sub(r"<attributes>.*?</attributes>", "", file.read_text(), flags=re.S)
        file.write_text(text)
    paths = [tmp_path / "voc", write(tmp_path / "people.json")]
    with pytest.raises(RunError) as caught:
        open_inputs(paths)
    assert str(caught.value) == f"{tmp_path / 'voc'} is an export of a run."
    (tmp_path / "voc" / "run.json").unlink()
    content, summary = merge(paths, tmp_path / "o.json", renumber=True)
    assert summary.given == {"voc": 5, "people": 2}
    assert {row["by"] for row in content["annotations"]} == {"person"}
    # The apple of a.png is in both, to the pixel that VOC rounds to.
    assert summary.left_out == {"drawn by two people": 1}


def test_an_image_of_two_hashes(tmp_path: Path, run: Path) -> None:
    changed = [DrawnImage("a.png", (96, 64), FOUND, "f" * 64)]
    second = build_run(tmp_path / "2", tmp_path / "other", changed, vocabulary=FRUIT)
    with pytest.raises(DataError) as caught:
        merge([run, second], tmp_path / "out.json")
    assert str(caught.value) == (
        "a.png is another file in 2 than in machine: their SHA-256 are ffffffffffff… and "
        f"{hashlib.sha256(b'a.png').hexdigest()[:12]}…."
    )


def test_an_id_of_two_images__is_an_error_unless_it_may_change(tmp_path: Path, run: Path) -> None:
    row = {**PEOPLE["images"][0], "id": 2}
    people = write(tmp_path / "people.json", images=[row], annotations=[])
    with pytest.raises(RunError) as caught:
        merge([run, people], tmp_path / "out.json")
    assert str(caught.value) == "The image id 2 is a.png in people and deep/b.png in machine."
    assert caught.value.hint == (
        "--renumber gives deep/b.png another id; machine keeps the old one."
    )
    content, _ = merge([run, people], tmp_path / "out.json", renumber=True)
    assert [row["id"] for row in content["images"]] == [2, 3]
    assert {row["image_id"] for row in content["annotations"]} == {2, 3}


def test_an_id_of_two_categories__is_an_error_unless_it_may_change(
    tmp_path: Path, run: Path
) -> None:
    own = [{"id": 1, "name": "melon"}, {"id": 9, "name": "apple"}]
    people = write(tmp_path / "people.json", categories=own)
    content, _ = merge([people, write(tmp_path / "same.json")], tmp_path / "a.json")
    with pytest.raises(VocabularyError) as caught:
        merge(
            [
                people,
                write(tmp_path / "b.json", categories=[{"id": 1, "name": "fig"}], annotations=[]),
            ],
            tmp_path / "out.json",
        )
    assert str(caught.value) == "The category id 1 is 'melon' in people and 'fig' in b."
    # By name where ids differ: the run's apple is 1, people's is 9.
    content, _ = merge([people, run], tmp_path / "out.json")
    assert rows_of(content, 2)[0] == ("machine", 9, 0.9)


def test_a_category_that_nothing_defines(tmp_path: Path) -> None:
    people = write(tmp_path / "people.json", annotations=[person(1, 51, 8, 0, 0, 5, 5)])
    with pytest.raises(DataError) as caught:
        open_inputs([people])
    assert str(caught.value) == (
        f"{people}, annotations[0] has the category_id 8, which the file does not define."
    )
    denied = [{**LVIS["images"][0], "neg_category_ids": [77]}]
    people = write(tmp_path / "lvis.json", LVIS, images=denied, annotations=[])
    with pytest.raises(DataError) as caught:
        merge([people, write(tmp_path / "b.json")], tmp_path / "out.json")
    assert str(caught.value) == (
        f"{people} lists the category 77 of an image, which the file does not define."
    )


def test_merge__is_whole_or_not_there(tmp_path: Path, run: Path, monkeypatch: Any) -> None:
    people, out = write(tmp_path / "people.json"), tmp_path / "out.json"
    out.write_text("older")

    def killed(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(merging, "_image_row", killed)
    with pytest.raises(KeyboardInterrupt):
        merge_annotations(open_inputs([run, people]), out, force=True)
    assert out.read_text() == "older"
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "machine",
        "out.json",
        "people.json",
        "photos",
    ]
    with pytest.raises(RunError) as caught:
        merge_annotations(open_inputs([run, people]), people)
    assert str(caught.value) == f"{people} is one of the files to merge."


def test_failed_images__are_left_out_and_counted(tmp_path: Path) -> None:
    images = [drawn("a.png"), DrawnImage("broken.jpg", None)]
    run = build_run(tmp_path / "r", tmp_path / "p", images, vocabulary=FRUIT)
    content, summary = merge([run, write(tmp_path / "people.json")], tmp_path / "out.json")
    assert [row["file_name"] for row in content["images"]] == ["a.png", "c.png"]
    assert summary.notes == (f"{run} has 1 failed image.",)


def test_command(tmp_path: Path, run: Path, capsys: Any) -> None:
    people, out = write(tmp_path / "people.json"), tmp_path / "out.json"
    given = ["merge", str(run), str(people), "--out", str(out)]
    assert vildcli([*given, "--json"]) == 0
    captured = capsys.readouterr()
    said = json.loads(captured.out)
    assert (said["out"], said["kind"], said["labels"]) == (str(out), "annotation set", 6)
    assert "Left out: 1 below the threshold, 1 where a person drew.\n" in captured.err
    assert "6 labels on 3 images.\n" in captured.err
    assert f"Next: vildcli export --check {out}\n" in captured.err
    assert vildcli(given) == 1
    assert f"Error: {out} exists.\n" in capsys.readouterr().err
    assert vildcli([*given, "--force", "--existing", "skip"]) == 0
    assert len(json.loads(out.read_text())["annotations"]) == 4


def test_command__what_does_not_go(tmp_path: Path, run: Path, capsys: Any) -> None:
    people = write(tmp_path / "people.json")
    assert vildcli(["merge", str(run), "--out", str(tmp_path / "o")]) == 2
    assert "Give at least two runs or annotation files." in capsys.readouterr().err
    assert vildcli(["merge", str(run), str(people), "--out", str(tmp_path / "o")]) == 1
    assert capsys.readouterr().err == (
        f"Error: {people} holds people's labels, and a labelling run holds what a machine found.\n"
        "Hint: Name an annotation file as --out, such as o.json.\n"
    )
    other = build_run(tmp_path / "r", tmp_path / "photos", [drawn("a.png")], vocabulary=FRUIT)
    pair = ["merge", str(run), str(other), "--out", str(tmp_path / "o")]
    assert vildcli([*pair, "--existing", "skip"]) == 2
    assert "--existing is for --out FILE.json: a run keeps every label." in capsys.readouterr().err
