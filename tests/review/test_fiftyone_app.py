from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from run_builder import IMAGES, build_run

from vildcli.cli import run as vildcli
from vildcli.errors import VildError
from vildcli.review import fiftyone_app


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_review__without_fiftyone(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(fiftyone_app, "find_spec", lambda name: None)
    run = build_run(tmp_path / "run", tmp_path / "photos")
    assert vildcli(["review", str(run), "--no-launch"]) == 1
    assert capsys.readouterr().err.splitlines() == [
        "Error: FiftyOne is not installed.",
        "Hint: pip install 'vildcli[review]'",
    ]


def test_review__port_taken(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(fiftyone_app, "find_spec", lambda name: object())
    run = build_run(tmp_path / "run", tmp_path / "photos")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert vildcli(["review", str(run), "--port", str(port)]) == 1
    assert capsys.readouterr().err.splitlines() == [
        f"Error: Port {port} on 127.0.0.1 is taken.",
        f"Hint: Choose another, such as --port {port + 1}.",
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--pull", "--port", "5200"], "--port is not for --pull."),
        (["--pull", "--where", "colour=red"], "--where is not for --pull."),
        (["--out", "file.json"], "--out is for --pull."),
        (["--to", "coco"], "--to is for --pull."),
        (["--vocab", "coco"], "--vocab is for --pull."),
    ],
)
def test_review__options_of_the_other_direction(arguments, said, tmp_path, capsys):
    assert vildcli(["review", str(tmp_path), *arguments]) == 2
    assert said in capsys.readouterr().err


def test_app_address():
    address = fiftyone_app.app_address(5151, "my photos/2-1aef1f3e", "asked-for")
    assert address == "http://127.0.0.1:5151/datasets/my%20photos%2F2-1aef1f3e?view=asked-for"


@pytest.mark.parametrize(("display", "opened"), [(":0", True), (None, False)])
def test_open_browser__only_where_there_is_a_screen(display, opened, monkeypatch):
    shown = []
    monkeypatch.setattr(fiftyone_app.sys, "platform", "linux")
    monkeypatch.setattr(fiftyone_app.webbrowser, "open", lambda page: shown.append(page) or True)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.delenv("DISPLAY", raising=False)
    if display:
        monkeypatch.setenv("DISPLAY", display)
    assert fiftyone_app.open_browser("http://here") is opened
    assert shown == ["http://here"] * opened


@pytest.mark.slow
def test_show_app__that_does_not_start(fiftyone, monkeypatch):
    from fiftyone.core.service import ServiceListenTimeout

    def slow(*_, port, **__):
        raise ServiceListenTimeout("ServerService", port)

    monkeypatch.setattr(fiftyone, "launch_app", slow)
    monkeypatch.setattr(fiftyone, "load_dataset", str)
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # pytest's own stay
    with pytest.raises(VildError) as error:
        fiftyone_app.show_app("photos", 5151)
    assert str(error.value) == "The App did not start on port 5151 within FiftyOne's minute."
    assert error.value.hint == (
        "The machine may be busy: run the same command again; the dataset is there."
    )


def test_check_port__free():
    fiftyone_app.check_port(free_port())


@pytest.mark.slow
def test_review__serves_the_app_until_ctrl_c(tmp_path, mongod):
    """In a process and a home folder of its own, with the server on PATH: what a user does."""
    run, port = build_run(tmp_path / "run", tmp_path / "photos", IMAGES[1:]), free_port()
    environment = {k: v for k, v in os.environ.items() if not k.startswith("FIFTYONE_")}
    environment |= {"HOME": str(tmp_path), "PATH": f"{mongod.parent}:{os.environ['PATH']}"}
    command = [sys.executable, "-m", "vildcli", "review", str(run), "--port", str(port)]
    # A file, not a pipe: FiftyOne's own server process holds it open for a while after the end.
    with (tmp_path / "said").open("w") as said:
        review = subprocess.Popen(
            command, env=environment, cwd=Path(__file__).parents[2], stderr=said
        )
    try:
        assert _page(f"http://127.0.0.1:{port}/", review)
        review.send_signal(signal.SIGINT)
        assert review.wait(timeout=60) == 0
    finally:
        review.kill()
    assert f"Review at http://127.0.0.1:{port}/datasets/run-" in (tmp_path / "said").read_text()
    fiftyone_app.check_port(port)


def _page(url: str, review: subprocess.Popen[bytes]) -> bool:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and review.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return "<title>FiftyOne</title>" in answer.read().decode()
        except OSError:
            time.sleep(0.3)
    return False
