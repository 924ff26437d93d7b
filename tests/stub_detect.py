"""`vildcli detect` with the stub model, for processes that are killed, measured or run together."""

from __future__ import annotations

import sys
from types import ModuleType

from stub_model import StubModel

from vildcli.cli import run
from vildcli.labelling.options import LabellingOptions


def stub_module(seconds: float = 0.0) -> ModuleType:
    """Stands for `vildcli.labelling.model`; a batch takes its model so long."""
    module = ModuleType("vildcli.labelling.model")

    def open_labelling_model(vocabulary: object, options: LabellingOptions) -> StubModel:
        return StubModel(seconds)

    module.open_labelling_model = open_labelling_model  # type: ignore[attr-defined]
    return module


def detect(arguments: list[str], seconds: float = 0.0) -> int:
    """Run the command line for good with the stub: only for processes of their own."""
    sys.modules["vildcli.labelling.model"] = stub_module(seconds)
    return run(["detect", *arguments, "--classes", "apple, pear"])


if __name__ == "__main__":
    sys.exit(detect(sys.argv[1:]))
