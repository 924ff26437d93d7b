from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tiny_training import rewrite

from vildcli.cli import run
from vildcli.data.lvis import load_annotations
from vildcli.errors import DataError, NothingToDoError, RunError
from vildcli.runs import read_run
from vildcli.teacher import session
from vildcli.teacher.cache import TeacherCache
from vildcli.teacher.figures import doubt_about, measure_teacher, read_teacher_figures
from vildcli.teacher.session import TeachOptions, TeachResult, teach


def options(data: Path, clip: str, proposals: object, **more: Any) -> TeachOptions:
    values = {"regions": 5, "device": "cpu", "offline": True, "prompts": "single", **more}
    return TeachOptions(data, data.parent, clip, str(proposals), **values)


def taught(out: Path, chosen: TeachOptions) -> TeachResult:
    return teach(chosen, out, force=False, advance=lambda steps=1, note=None: None)


def results(path: Path, data: Path, bbox: list[float]) -> Path:
    rows = [{"image_id": i.id, "bbox": bbox, "score": 0.5} for i in load_annotations(data).images]
    path.write_text(json.dumps(rows))
    return path


def test_teach__every_image_has_its_proposals(
    tmp_path: Path, data: Path, clip: str, student: Path
) -> None:
    found = taught(tmp_path / "out", options(data, clip, student))
    assert (found.folder, found.images, found.embedded) == (tmp_path / "out", 4, 4)
    annotations = load_annotations(data)
    cache = TeacherCache(tmp_path / "out", annotations.images, data.parent)
    for image in annotations.images:
        boxes, embeddings = cache[image.id]
        assert boxes.shape == (5, 4)
        torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(5), atol=1e-3, rtol=0)
    assert taught(tmp_path / "out", options(data, clip, student)).embedded == 0


def test_teach__what_it_was_given_is_written_down(
    tmp_path: Path, data: Path, clip: str, student: Path
) -> None:
    taught(tmp_path / "out", options(data, clip, student))
    header = read_run(tmp_path / "out", "teacher")
    assert set(header["settings"]) == {"teacher", "crops", "proposals", "regions"}
    assert header["arguments"]["provenance"]["system"] == "vild-text"
    assert header["arguments"]["provenance"]["init"] == "scratch"
    assert header["arguments"]["proposals"] == str(student)


def test_teach__another_annotation_file_over_the_images_adds_nothing(
    tmp_path: Path, data: Path, clip: str, student: Path
) -> None:
    taught(tmp_path / "out", options(data, clip, student))

    def renumber(content: dict[str, Any]) -> None:
        del content["images"][1]
        content["annotations"] = []
        for i, image in enumerate(content["images"]):
            image["id"] = 100 + i

    rewrite(data, renumber)
    assert taught(tmp_path / "out", options(data, clip, student)).embedded == 0
    TeacherCache(tmp_path / "out", load_annotations(data).images, data.parent)


def test_teach__other_settings_are_refused(
    tmp_path: Path, data: Path, clip: str, student: Path
) -> None:
    taught(tmp_path / "out", options(data, clip, student))
    boxes = results(tmp_path / "boxes.json", data, [4, 5, 14, 20])
    with pytest.raises(RunError, match=r"holds a run with other settings \(proposals: '"):
        taught(tmp_path / "out", options(data, clip, boxes))
    with pytest.raises(RunError, match=r"\(regions: 5 there, 6 now\)"):
        taught(tmp_path / "out", options(data, clip, student, regions=6))


def test_teach__a_missing_image_is_named_before_any_model_is_loaded(
    tmp_path: Path, data: Path
) -> None:
    (data.parent / "2.png").unlink()
    with pytest.raises(DataError) as error:
        taught(tmp_path / "out", options(data, "no-teacher", "no-model"))
    assert str(error.value) == f"1 of 4 image files are not in {data.parent} (first: 2.png)."
    assert not (tmp_path / "out").exists()


def test_teach__no_images(tmp_path: Path, data: Path) -> None:
    rewrite(data, lambda content: content.update(images=[], annotations=[]))
    with pytest.raises(NothingToDoError) as error:
        taught(tmp_path / "out", options(data, "no-teacher", "no-model"))
    assert str(error.value) == f"{data} lists no images."


def test_teach__measures_once(
    tmp_path: Path, data: Path, clip: str, student: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, chosen = tmp_path / "out", options(data, clip, student)
    first = taught(out, chosen).figures
    assert first == read_teacher_figures(out)
    assert first["categories"] == 3
    assert first["groups"]["all"]["asked"] == 12
    measured: list[object] = []

    def noting(*arguments: Any, **more: Any) -> Any:
        measured.append(arguments)
        return measure_teacher(*arguments, **more)

    monkeypatch.setattr(session, "measure_teacher", noting)
    assert taught(out, chosen).figures == first
    assert measured == []
    taught(out, options(data, clip, student, prompts="clip-80"))
    assert len(measured) == 1
    rewrite(data, lambda content: content["annotations"].pop())
    found = taught(out, options(data, clip, student, prompts="clip-80"))
    assert found.figures["groups"]["all"]["asked"] == 11
    Image.new("RGB", (60, 50)).save(data.parent / "1.png")
    assert taught(out, options(data, clip, student, prompts="clip-80")).embedded == 1
    assert len(measured) == 3


def test_command__shows_what_it_measured(
    tmp_path: Path, data: Path, clip: str, capsys: pytest.CaptureFixture[str]
) -> None:
    boxes = results(tmp_path / "boxes.json", data, [4, 5, 14, 20])
    arguments = ["--data", data, "--images", data.parent, "--teacher", clip, "--proposals", boxes]
    arguments += ["--prompts", "single", "--device", "cpu", "--out", tmp_path / "out"]
    assert run(["teach", "--offline", *map(str, arguments)]) == 0
    lines = capsys.readouterr().err.splitlines()
    table = lines.index("On true boxes (chance 0.333; recall at IoU 0.5, of any class)")
    assert [line.split()[0] for line in lines[table + 1 : table + 5]] == [
        "categories", "all", "base", "novel",
    ]  # fmt: skip
    figures = read_teacher_figures(tmp_path / "out")
    assert figures is not None
    accuracy = figures["groups"]["all"]["accuracy"]
    # The box meets the first image's first object, the second image's with IoU 17/23.
    assert lines[table + 2].split() == ["all", f"{accuracy:.3f}", "12", "0.250", "12"]
    assert lines[table + 4].split()[3:] == ["0.000", "4"]
    doubts = [line for line in lines if line.startswith("Warning: The teacher names ")]
    assert len(doubts) == (doubt_about(figures) is not None)
    assert f"Teacher cache: {tmp_path / 'out'} (4 images, 4 of them new)" in lines


def test_command__bad_input_is_two_lines(
    tmp_path: Path, data: Path, clip: str, capsys: pytest.CaptureFixture[str]
) -> None:
    boxes = results(tmp_path / "boxes.json", data, [4, float("nan"), 14, 20])
    arguments = ["--data", data, "--images", data.parent, "--teacher", clip, "--proposals", boxes]
    assert run(["teach", *map(str, arguments), "--out", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err == (
        f"Error: {boxes}, row 0 has the bbox [4, nan, 14, 20], not four numbers x, y, width, "
        "height.\nHint: Give a COCO results list (image_id, bbox, score) or a COCO annotation "
        "file.\n"
    )
