"""Who may import whom, and what no file may hold."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "vildcli"
SOURCES = sorted(PACKAGE.rglob("*.py"))
FORBIDDEN_NAMES = {"utils", "util", "helpers", "helper", "misc", "common", "base"}


def place(path: Path) -> str:
    """`detector/heads` of vildcli/detector/heads.py."""
    return path.relative_to(PACKAGE).with_suffix("").as_posix()


def imports(path: Path, *, top_only: bool = False) -> set[str]:
    """Dotted names that a file imports; with `top_only`, those that importing the file imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names: set[str] = set()
    for node in at_import(tree) if top_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{place(path)} imports relatively"
            module = node.module or ""
            names |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return names


def at_import(node: ast.AST) -> Iterator[ast.AST]:
    """Nodes that run on import: no function bodies, nothing that is for type checkers only."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from at_import(child)


def uses(names: set[str], module: str) -> bool:
    return any(name == module or name.startswith(f"{module}.") for name in names)


def files_using(module: str, *, top_only: bool = False) -> set[str]:
    return {place(p) for p in SOURCES if uses(imports(p, top_only=top_only), module)}


def in_folder(folder: str) -> list[Path]:
    return sorted((PACKAGE / folder).rglob("*.py"))


def reachable(start: Path) -> set[str]:
    """Third parties that importing a file loads, through all of vildcli's own files."""
    seen: set[Path] = set()
    foreign: set[str] = set()
    waiting = [start, PACKAGE / "__init__.py"]
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        for name in imports(path, top_only=True):
            if not uses({name}, "vildcli"):
                foreign.add(name.split(".")[0])
            else:
                waiting += own_files(name)
    return foreign


def own_files(name: str) -> list[Path]:
    """The file of a module and the packages above it."""
    parts = name.split(".")
    candidates = [ROOT.joinpath(*parts).with_suffix(".py")]
    candidates += [ROOT.joinpath(*parts[:i], "__init__.py") for i in range(1, len(parts) + 1)]
    return [path for path in candidates if path.is_file()]


def test_detector__knows_no_words() -> None:
    for path in in_folder("detector"):
        for words in ("vildcli.text", "vildcli.vocabulary"):
            assert not uses(imports(path), words), f"{place(path)} imports {words}"


def test_teacher_and_detector__do_not_know_each_other() -> None:
    for path in in_folder("detector"):
        assert not uses(imports(path), "vildcli.teacher"), place(path)


def test_types__know_nobody() -> None:
    assert not uses(imports(PACKAGE / "types.py"), "vildcli")


@pytest.mark.parametrize("folder", ["calibration", "export", "reporting", "vocabulary"])
def test_folder__needs_no_torch(folder: str) -> None:
    for path in in_folder(folder):
        assert "torch" not in reachable(path), place(path)


@pytest.mark.parametrize("file", ["labelling/records.py", "assets.py", "runs.py", "errors.py"])
def test_file__needs_no_torch(file: str) -> None:
    assert "torch" not in reachable(PACKAGE / file)


def test_export__reads_records_only() -> None:
    for path in in_folder("export"):
        for part in ("detector", "teacher", "text", "training", "evaluation", "data"):
            assert not uses(imports(path), f"vildcli.{part}"), f"{place(path)} imports {part}"


def test_commands__are_imported_by_nobody() -> None:
    users = {p for p in files_using("vildcli.commands") if not p.startswith("commands/")}
    assert users <= {"cli"}


@pytest.mark.parametrize("module", ["torch", "torchvision", "open_clip", "fiftyone", "pyarrow"])
def test_commands__load_nothing_heavy(module: str) -> None:
    for path in in_folder("commands"):
        assert module not in reachable(path), f"importing {place(path)} loads {module}"


@pytest.mark.parametrize(
    ("module", "allowed"),
    [
        ("rich", {"console"}),
        ("hotcoco", {"evaluation/engine"}),
        ("click", {"cli"}),
        ("fiftyone", set()),
    ],
)
def test_third_party__has_one_place(module: str, allowed: set[str]) -> None:
    folders = {"click": "commands/", "fiftyone": "review/"}
    users = {p for p in files_using(module) if not p.startswith(folders.get(module, "\0"))}
    assert users <= allowed


def test_open_clip__is_met_by_encoders_and_teachers_only() -> None:
    users = {p for p in files_using("open_clip") if not p.startswith("teacher/")}
    assert users <= {
        "text/open_clip_models",
        "text/open_clip_weights",
        "text/encoder",
        "world/teacher",
    }


@pytest.mark.parametrize("module", ["nltk", "fiftyone", "ray"])
def test_third_party__is_imported_where_it_is_used(module: str) -> None:
    assert files_using(module, top_only=True) == set()


def test_lvis__stays_in_the_tests() -> None:
    """Importing it configures the root logger."""
    assert files_using("lvis") == set()


def test_sources__never_print_exit_or_unpickle() -> None:
    calls = {"print", "exit", "quit", "eval", "exec", "input"}
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in calls, f"{place(path)}:{node.lineno} {node.func.id}()"
        unsafe = {"pickle.load", "pickle.loads", "yaml.unsafe_load", "yaml.full_load"}
        assert not calls_of(path) & unsafe, place(path)
        # There the loader is PyYAML's safe one, made stricter.
        assert "yaml.load" not in calls_of(path) or place(path) == "vocabulary/documents"


def calls_of(path: Path) -> set[str]:
    """What a file calls, as it is written."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}


def test_sources__load_tensors_safely() -> None:
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                safe = {k.arg: ast.unparse(k.value) for k in node.keywords}
                assert safe.get("weights_only") == "True", f"{place(path)}:{node.lineno}"


def test_files__are_named_for_what_they_hold() -> None:
    found = {p.stem for p in SOURCES} & FORBIDDEN_NAMES
    assert not found


def test_sources__state_what_they_hold() -> None:
    for path in SOURCES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert not tree.body or ast.get_docstring(tree), f"{place(path)} has no docstring"


def test_functions__are_short() -> None:
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                lines = code_lines(node)
                assert lines <= 60, f"{place(path)}:{node.lineno} {node.name} has {lines} lines"


def code_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of the body, its docstring apart."""
    documented = ast.get_docstring(node) is not None
    first = node.body[min(int(documented), len(node.body) - 1)]
    return (node.end_lineno or first.lineno) - first.lineno + 1


def test_installed_package__holds_every_folder_of_the_checkout() -> None:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.11 has it")
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"][
        "setuptools"
    ]
    folders = {p.parent.relative_to(ROOT).as_posix() for p in SOURCES}
    packages = {name.replace(".", "/") for name in setup["packages"]}
    assert folders | {"vildcli/vocab", "vildcli/vocab/splits", "vildcli/prompts"} == packages
