"""The page in a real browser: phone and desktop, light and dark; hostile names do nothing there."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from run_builder import DrawnImage, DrawnLabel, build_run

from vildcli.reporting.report import write_report
from vildcli.vocabulary.category import Category, Vocabulary

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--hide-scrollbars",
)  # fmt: skip
DARK = ("--force-dark-mode", "--blink-settings=preferredColorScheme=0")
OWNED = "document.title='owned';document.body.style.display='none'"
NAMES = (
    f"<script>{OWNED}</script>",
    f'<img src=x onerror="{OWNED}">',
    "</style><style>body{display:none!important}</style>",
    "a very long name " * 20,
    "Donaudampfschifffahrtsgesellschaftskapitänskajütentürschlüsselloch" * 2,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH"),
]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    words = Vocabulary(
        "names",
        tuple(Category(i, name) for i, name in enumerate(NAMES, start=1)),
        attributes={NAMES[0]: (NAMES[1], NAMES[4])},
    )
    drawn = [
        DrawnImage(
            f"{'long-' * 30}{i}.png",
            (320, 200),
            [
                DrawnLabel(c, 0.4 + 0.05 * c + i / 50, (20 + 40 * c, 30, 60 + 40 * c, 120), True,
                           ((NAMES[0], NAMES[1], 0.5),))
                for c in range(1, 6)
            ],
            sha256=f"{i // 2:016x}",
        )
        for i in range(14)
    ]  # fmt: skip
    drawn.append(DrawnImage(f"{'x' * 200}.jpg", None))
    run = build_run(folder / "run", folder / "photos", drawn, vocabulary=words)
    return write_report(run).out


def chromium(page: Path, profile: Path, *more: str) -> bytes:
    assert CHROMIUM is not None
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", *more, page.as_uri()]
    return subprocess.run(command, capture_output=True, timeout=240, check=True).stdout


def test_names__do_nothing(page: Path, tmp_path: Path) -> None:
    dom = chromium(page, tmp_path / "profile", "--dump-dom").decode()
    assert "<title>run – vildcli report</title>" in dom
    assert "<script" not in dom
    assert '<img src="x"' not in dom
    assert dom.count("<style>") == 1
    assert "display: none" not in dom


@pytest.mark.parametrize(("width", "is_dark"), [(390, True), (1400, False)])
def test_page__fits_its_window(page: Path, tmp_path: Path, width: int, is_dark: bool) -> None:
    """Nothing sticks out to the right, and paper and ink are what the reader's scheme asks for."""
    name = f"report-{width}-{'dark' if is_dark else 'light'}.png"
    kept = os.environ.get("VILDCLI_TEST_PICTURES")
    picture = (Path(kept) if kept else tmp_path) / name
    more = DARK if is_dark else ()
    size = f"--window-size={width},3000"
    chromium(page, tmp_path / "profile", size, f"--screenshot={picture}", *more)
    with Image.open(picture) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    assert pixels.shape == (3000, width, 3)
    paper = pixels[2, 2]
    assert (paper.mean() < 60) == is_dark
    edge = pixels[:, -12:]
    assert (abs(edge - paper).max(axis=2) < 3).all()
    ink = pixels[:300].reshape(-1, 3).mean(axis=1)
    assert ink.max() - ink.min() > 150
