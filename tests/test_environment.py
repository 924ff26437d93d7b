from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import pytest

from vildcli import cli, environment
from vildcli.environment import Finding, examine


def found(part: str) -> Finding:
    return next(finding for finding in examine() if finding.part == part)


def test_examine__names_versions() -> None:
    assert found("torch").found == version("torch")
    assert found("Python").found is not None


def test_examine__says_how_to_get_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(environment, "EXTRAS", (("no-such-package", "flying", "grow wings"),))
    monkeypatch.setenv("VILDCLI_CACHE", str(tmp_path / "not" / "yet"))
    assert found("no-such-package") == Finding("no-such-package", None, "for flying: grow wings")
    weights = found("weights ViT-B-32:openai")
    assert (weights.found, weights.hint.endswith("vildcli fetch")) == (None, True)
    assert not (tmp_path / "not").exists()


def test_examine__sees_weights_that_are_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from vildcli.weights import plan_fetch

    monkeypatch.setenv("VILDCLI_CACHE", str(tmp_path))
    (file,) = plan_fetch(["torchvision"])
    file.path.parent.mkdir(parents=True)
    file.path.touch()
    assert found("weights torchvision").found == str(file.path)


def test_examine__keeps_the_address_of_a_database_to_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("fiftyone", reason="the review extra is not installed")
    monkeypatch.setenv("FIFTYONE_DATABASE_URI", "mongodb://me:secret@host")
    assert "secret" not in str(list(examine()))


def test_doctor__prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["doctor", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {"part": "torch", "found": version("torch"), "hint": "pip install torch"} in rows
