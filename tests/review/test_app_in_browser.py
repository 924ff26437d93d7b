"""The App as a reviewer sees it: Chromium looks at it, an edit goes through its own server.

The screenshot is kept as `.pytest_cache/d/screenshots/app.png`.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from photograph_run import build_photograph_run
from PIL import Image
from run_builder import DrawnImage, DrawnLabel, build_run

from vildcli.review.mongo import running_server

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SHARED = Path(os.environ.get("VILDCLI_SHARED_DATA", ROOT.parent / "shared" / "data"))
COCO128 = SHARED / "images" / "coco128"
LISTS = slice(45, 1150)  # columns of 1500 between the App's lists of fields


@dataclass
class OpenApp:
    """An App that a reviewer has open, in a process and a home folder of its own."""

    run: Path
    port: int
    home: Path
    environment: dict[str, str]
    samples: Any

    @property
    def dataset(self) -> Any:
        return self.samples.database["datasets"].find_one()

    def page(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def screenshot(self, sample: Any, out: Path) -> np.ndarray:
        chromium = shutil.which("chromium") or shutil.which("chromium-browser")
        if chromium is None:
            reason = "no Chromium; apt-get install chromium"
            if os.environ.get("VILDCLI_REQUIRE_CHROMIUM"):
                pytest.fail(reason)
            pytest.skip(reason)
        options = (
            "headless no-sandbox disable-gpu disable-quic no-first-run disable-sync "
            "disable-background-networking disable-component-update window-size=1500,1000 "
            f"virtual-time-budget=15000 user-data-dir={self.home / 'browser'} screenshot={out}"
        )
        page = self.page(f"/datasets/{self.dataset['name']}?id={sample['_id']}")
        last: np.ndarray | None = None
        for _ in range(8):  # the page may still be loading, or be half painted, at the budget's end
            subprocess.run(
                [chromium, *(f"--{option}" for option in options.split()), page],
                check=True,
                timeout=240,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            with Image.open(out) as picture:
                pixels = np.asarray(picture.convert("RGB")).astype(int)
            if last is not None and not _differ(last, pixels).any() and pixels[:, LISTS].std() > 30:
                return pixels
            last = pixels
        raise AssertionError("the App shows nothing, or never the same")

    def patch(self, sample: Any, label: Any, operations: list[dict[str, Any]]) -> None:
        """What the App's page sends when somebody edits a label."""
        place = f"/dataset/{self.dataset['_id']}/sample/{sample['_id']}"
        request = urllib.request.Request(
            self.page(f"{place}/predictions.detections/{label['_id']}"),
            json.dumps(operations).encode(),
            {
                "Content-Type": "application/json-patch+json",
                "If-Match": sample["last_modified_at"].isoformat(),
            },
            method="PATCH",
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert answer.status == 200


def _differ(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Which pixels between the App's lists are others [H, W]."""
    return (np.abs(one - other).sum(2) > 24)[:, LISTS]


def build_any_run(folder: Path) -> Path:
    """Of photographs where they are at hand; else of a drawing, so that something is looked at."""
    if COCO128.is_dir():
        return build_photograph_run(folder, COCO128, count=8)
    labels = [DrawnLabel(1, 0.9, (150, 120, 320, 400)), DrawnLabel(44, 0.8, (380, 90, 600, 300))]
    return build_run(folder / "run", folder / "photos", [DrawnImage("a.png", (640, 480), labels)])


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory, mongod: Path) -> Iterator[OpenApp]:
    pymongo = pytest.importorskip("pymongo", reason="fiftyone is not installed")
    folder = tmp_path_factory.mktemp("app")
    run = build_any_run(folder)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("FIFTYONE_")}
    environment |= {"HOME": str(folder), "PATH": f"{mongod.parent}:{os.environ['PATH']}"}
    command = [sys.executable, "-m", "vildcli", "review", str(run), "--port", str(port), "--remote"]
    review = _open_app(command, environment, folder / "said", f"http://127.0.0.1:{port}/")
    try:
        assert f"ssh -N -L {port}:127.0.0.1:{port}" in (folder / "said").read_text()
        uri = running_server(folder / ".fiftyone" / "vildcli-mongo")
        assert uri is not None
        with pymongo.MongoClient(uri) as client:
            dataset = client["fiftyone"]["datasets"].find_one()
            samples = client["fiftyone"][dataset["sample_collection_name"]]
            yield OpenApp(run, port, folder, environment, samples)
    finally:
        review.send_signal(signal.SIGINT)
        review.wait(timeout=60)


def _open_app(
    command: list[str], environment: dict[str, str], said: Path, url: str
) -> subprocess.Popen[bytes]:
    """Start the review until the App answers: on a busy machine FiftyOne gives up too early."""
    for _ in range(3):
        with said.open("w") as file:
            review = subprocess.Popen(command, env=environment, cwd=ROOT, stderr=file)
        if _answers(url, review):
            return review
    pytest.fail(f"the App did not start: {said.read_text()}")


def _answers(url: str, review: subprocess.Popen[bytes]) -> bool:
    while review.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return True
        except OSError:
            time.sleep(0.5)
    return False


def _low_label(samples: Any) -> tuple[Any, Any]:
    """A sample whose last label leaves room for a name between it and the image's upper border."""
    for sample in samples.find():
        label = sample["predictions"]["detections"][-1]
        x, y, width, height = label["bounding_box"]
        if y > 0.15 and x > 0.04 and y + height < 0.97 and x + width < 0.97:
            return sample, label
    raise AssertionError("no last label lies low")


def test_app__shows_boxes_and_names_of_a_photograph(app, request):
    sample, label = _low_label(app.samples)
    kept = Path(request.config.cache.mkdir("screenshots")) / "app.png"
    before = app.screenshot(sample, kept)
    app.patch(sample, label, [{"op": "remove", "path": "/"}])
    after = app.screenshot(sample, app.home / "after.png")
    # What is gone is that label: its box and mask, and above them a line with its name.
    gone = _differ(before, after)
    rows, columns = (np.flatnonzero(gone.any(axis)) for axis in (1, 0))
    _, _, width, height = label["bounding_box"]
    across, down = width * sample["metadata"]["width"], height * sample["metadata"]["height"]
    scale = (columns[-1] - columns[0]) / across
    assert scale > 0.5  # the photograph is large on the page
    name_height = (rows[-1] - rows[0]) - scale * down
    assert 10 < name_height < 50
    line = gone[rows[0] + 2 : rows[0] + int(name_height) - 2].any(0)
    assert 6 < line.sum() / (len(label["label"]) + 1) < 16  # pixels a letter


def test_app__an_edit_in_it_is_pulled_while_it_is_open(app):
    sample = app.samples.find_one()
    label = sample["predictions"]["detections"][0]
    x, y, width, height = label["bounding_box"]
    operations = [
        {"op": "replace", "path": "/bounding_box", "value": [x, y, width / 2, height / 2]},
    ]
    app.patch(sample, label, operations)
    out = app.home / "corrections.json"
    command = [sys.executable, "-m", "vildcli", "review", str(app.run), "--pull", "--out", str(out)]
    subprocess.run([*command, "--force"], env=app.environment, cwd=ROOT, check=True)
    rows = [row for row in json.loads(out.read_text())["annotations"] if row["changes"]]
    (changed,) = rows
    assert "moved" in changed["changes"]
    assert changed["vildcli_label"] == label["vildcli_label"]
    assert changed["bbox"][2] == pytest.approx(width / 2 * sample["metadata"]["width"], abs=0.01)
