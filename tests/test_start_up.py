"""Starting is quick: counted in modules, which no busy machine changes."""

from __future__ import annotations

import json
import subprocess
import sys

HEAVY = ("torch", "torchvision", "open_clip", "fiftyone", "pyarrow", "numpy", "rich", "yaml", "PIL")
OURS = 5  # modules of vildcli that the help of all commands may load
OTHERS = 25  # modules beyond those of click that it may load


def modules_after(code: str) -> set[str]:
    report = "import json, sys; print('\\n' + json.dumps(list(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"], capture_output=True, text=True, check=True
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_help__loads_little_more_than_click() -> None:
    bare = modules_after("import click")
    more = modules_after("from vildcli.cli import run; run(['--help'])") - bare
    ours = {name for name in more if name.split(".")[0] == "vildcli"}
    assert not {name.split(".")[0] for name in more} & set(HEAVY)
    assert not {name for name in ours if name.startswith("vildcli.commands.")}
    assert len(ours) <= OURS, sorted(ours)
    assert len(more - ours) <= OTHERS, sorted(more - ours)
