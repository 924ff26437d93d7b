"""The FiftyOne App on a run: its environment, its port, and showing it until Ctrl-C."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from importlib.util import find_spec

from vildcli.errors import MissingDependencyError, VildError

ADDRESS = "127.0.0.1"  # the App asks for no password: it is never served beyond this machine


def prepare_fiftyone() -> None:
    """Set what FiftyOne reads while it is imported; it is not imported here.

    Raises:
        MissingDependencyError: it is not installed.
    """
    if find_spec("fiftyone") is None:
        raise MissingDependencyError(
            "FiftyOne is not installed.", hint="pip install 'vildcli[review]'"
        )
    os.environ["FIFTYONE_DO_NOT_TRACK"] = "true"
    os.environ.setdefault("FIFTYONE_DATABASE_VALIDATION", "false")  # 6.0 works, and warns
    os.environ.setdefault("FIFTYONE_SHOW_PROGRESS_BARS", "false")
    os.environ.setdefault("FIFTYONE_LOGGING_LEVEL", "WARNING")  # its greeting hides what we say


def check_port(port: int) -> None:
    """Refuse a port that something listens on: FiftyOne would silently join it.

    Raises:
        VildError: it is taken.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((ADDRESS, port))
        except OSError as error:
            raise VildError(
                f"Port {port} on {ADDRESS} is taken.",
                hint=f"Choose another, such as --port {port + 1}.",
            ) from error


def show_app(name: str, port: int) -> None:
    """Serve the App on this machine alone until Ctrl-C."""
    import fiftyone as fo

    # Also when it runs in the background, or is asked to end by something else than a keyboard.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt):
        session = fo.launch_app(fo.load_dataset(name), remote=True, address=ADDRESS, port=port)
        session.wait(-1)
