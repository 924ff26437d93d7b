"""The FiftyOne App on a run: its environment, its port, and showing it until Ctrl-C."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import webbrowser
from collections.abc import Callable
from importlib.util import find_spec
from urllib.parse import quote

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
    # Its greeting hides what we say, it warns of options of its own, and stdout may be read.
    os.environ.setdefault("FIFTYONE_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("FIFTYONE_LOGGING_DESTINATION", "stdout,stderr")  # errors to the second


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


def app_address(port: int, dataset: str, view: str | None) -> str:
    """Where a browser finds a dataset, or a saved view of it."""
    shown = f"?view={view}" if view else ""
    return f"http://{ADDRESS}:{port}/datasets/{quote(dataset, safe='')}{shown}"


def open_browser(address: str) -> bool:
    """Show an address in a browser, where there is a screen to show it on."""
    is_graphical = sys.platform in ("darwin", "win32") or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY")
    )
    return is_graphical and webbrowser.open(address)  # else a text browser would take the terminal


def show_app(name: str, port: int, started: Callable[[], object] = lambda: None) -> None:
    """Serve the App on this machine alone until Ctrl-C.

    Args:
        started: called once it can be looked at.

    Raises:
        VildError: FiftyOne gave up waiting for it.
    """
    import fiftyone as fo
    from fiftyone.core.service import ServiceListenTimeout

    # Also when it runs in the background, or is asked to end by something else than a keyboard.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt):
        # FiftyOne's "remote" only means that it opens no browser of its own.
        try:
            session = fo.launch_app(fo.load_dataset(name), remote=True, address=ADDRESS, port=port)
        except ServiceListenTimeout as error:
            raise VildError(
                f"The App did not start on port {port} within FiftyOne's minute.",
                hint="The machine may be busy: run the same command again; the dataset is there.",
            ) from error
        try:
            started()
            session.wait(-1)
        finally:  # waits for its server, which else keeps the port for a while after the command
            session.close()
