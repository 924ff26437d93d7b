"""Open-vocabulary labelling around ViLD (Gu et al., ICLR 2022).

From Python, the names below (docs/python.md). They load when they are first used: `import vildcli`
imports no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vildcli.api import (
        ImageLabels,
        LoadedDetector,
        evaluate,
        export_run,
        label_images,
        load_detector,
        merge,
        read_labels,
        relabel,
    )
    from vildcli.errors import VildError
    from vildcli.export.checks import check_export
    from vildcli.vocabulary.category import Category, Vocabulary
    from vildcli.vocabulary.files import load_vocabulary, save_vocabulary

__version__ = "0.1.0"
__all__ = [
    "Category",
    "ImageLabels",
    "LoadedDetector",
    "VildError",
    "Vocabulary",
    "check_export",
    "evaluate",
    "export_run",
    "label_images",
    "load_detector",
    "load_vocabulary",
    "merge",
    "read_labels",
    "relabel",
    "save_vocabulary",
]
_ELSEWHERE = {
    "Category": "vocabulary.category",
    "VildError": "errors",
    "Vocabulary": "vocabulary.category",
    "check_export": "export.checks",
    "load_vocabulary": "vocabulary.files",
    "save_vocabulary": "vocabulary.files",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'vildcli' has no attribute {name!r}")
    value = getattr(import_module(f"vildcli.{_ELSEWHERE.get(name, 'api')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
