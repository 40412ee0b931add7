"""The layout of the package: imports run downwards, files and functions stay small."""

import ast
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).parents[1] / "kd_jax"
FILES = sorted(PACKAGE.rglob("*.py"))

FLOORS = (
    {"core"},
    {"losses", "models", "data"},
    {"methods"},
    {"training"},
    {"evaluation"},
    {"pretrained"},
    {"experiment"},
    {"commands"},
)
LEVEL = {name: level for level, names in enumerate(FLOORS) for name in names}


def package_of(path):
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else None


def imported(tree):
    """Yields the names of the packages of kd_jax that a file imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("kd_jax"):
            first, *_ = node.module.split(".")[1:] or [None]
            yield from [first] if first else (alias.name for alias in node.names)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("kd_jax."):
                    yield alias.name.split(".")[1]


def test_the_top_shows_twelve_entries():
    names = {path.name for path in PACKAGE.iterdir()} - {"__pycache__"}
    assert names - {"__init__.py", "__main__.py"} == {*LEVEL, "py.typed", "train.py"}
    assert len(names - {"__init__.py", "__main__.py"}) <= 12


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_downwards(path):
    package = package_of(path)
    if package is None:
        return  # the public surface and the entry points
    for name in imported(ast.parse(path.read_text())):
        if name in LEVEL and name != package:
            assert LEVEL[name] < LEVEL[package], f"{package} imports {name}"


def test_losses_import_nothing_else_of_the_project():
    for path in (PACKAGE / "losses").glob("*.py"):
        assert set(imported(ast.parse(path.read_text()))) <= {"losses"}, path


def test_files_and_functions_are_short():
    long = []
    for path in FILES:
        text = path.read_text()
        if len(text.splitlines()) > 300:
            long.append(str(path))
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                doc = len((ast.get_docstring(node, clean=False) or "").splitlines())
                if node.end_lineno - node.lineno + 1 - doc > 60:
                    long.append(f"{path}: {node.name}")
    assert long == []
