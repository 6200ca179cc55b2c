"""The rules of the house that the source itself can prove: floors, no patching, docstrings."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import shotover_gevent

PACKAGE = Path(shotover_gevent.__file__).parent
NAME = "shotover_gevent"

# A room is a package or a module directly below the package. A module imports from its own room and
# from lower floors; modules that stand alone on a floor may import each other.
FLOORS = {
    "_version": 0, "deadline": 0, "errors": 0, "exits": 0, "logs": 0, "metrics": 0,
    "codecs": 1,
    "net": 2,
    "chain": 3,
    "sinks": 4, "transforms": 4,
    "sources": 5,
    "config": 6,
    "hotreload": 7, "observability": 7,
    "control": 8, "facts": 8, "proxy": 8,
    "__main__": 9, "activate": 9, "cli": 9, "completion": 9, "ctl": 9, "ctl_top": 9, "terminal": 9, "demo": 9, "demo_check": 9, "describe": 9,
    "serve": 9,
    "": 10,
}

# It stands beside the floors: it may import any but the top, and the commands may import it.
BESIDE = "testing"

# What a codec must not need: it turns bytes into batches and knows nothing of where they come from.
IO_MODULES = {"gevent", "socket", "select", "ssl", "asyncio", "threading"}

FILES = sorted(PACKAGE.rglob("*.py"))


def module_name(path: Path) -> str:
    """The dotted name of a file of the package."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room(module: str) -> str:
    """The room of a module of ours: ``codecs`` for ``shotover_gevent.codecs.batch``."""
    return module.split(".")[1] if "." in module else ""


def is_package(name: str) -> bool:
    """Whether a room is a package."""
    return (PACKAGE / name).is_dir()


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are written in full"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield node.lineno, full if is_module(full) else str(node.module)


def is_module(dotted: str) -> bool:
    """Whether the name is a module of ours."""
    path = PACKAGE.parent.joinpath(*dotted.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def may_import(importer: str, imported: str) -> bool:
    """Whether a module of room ``importer`` may import from room ``imported``."""
    if importer == imported:
        return True
    if importer == BESIDE:
        return imported != ""
    if imported == BESIDE:
        return FLOORS[importer] == 9
    if FLOORS[importer] == FLOORS[imported]:
        return not is_package(importer) and not is_package(imported)
    return FLOORS[importer] > FLOORS[imported]


def test_every_room_has_a_floor() -> None:
    """A new module or package is given a floor before anything else."""
    rooms = {room(module_name(path)) for path in FILES}
    assert rooms - set(FLOORS) - {BESIDE} == set()


def test_imports_go_down() -> None:
    """A module imports from its own room and from lower floors only."""
    wrong = [
        f"{path.relative_to(PACKAGE)}:{line}: {room(module_name(path)) or 'the top'} imports {imported}"
        for path in FILES
        for line, imported in imports(path)
        if imported.split(".")[0] == NAME and not may_import(room(module_name(path)), room(imported))
    ]
    assert "\n".join(wrong) == ""


def test_codecs_know_no_io() -> None:
    """Codecs turn bytes into batches; they wait for nothing."""
    wrong = [
        f"{path.relative_to(PACKAGE)}:{line}: {imported}"
        for path in FILES if room(module_name(path)) == "codecs"
        for line, imported in imports(path) if imported.split(".")[0] in IO_MODULES
    ]
    assert "\n".join(wrong) == ""


@pytest.mark.parametrize("module", [NAME, f"{NAME}.cli", f"{NAME}.serve", f"{NAME}.demo"])
def test_importing_patches_nothing(module: str) -> None:
    """Importing the package, or a command, leaves the standard library as it is."""
    code = f"import {module}, gevent.monkey; print(gevent.monkey.saved)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "{}\n"


def patches(path: Path) -> Iterator[int]:
    """Lines that reach for one of gevent's patching functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and node.attr.startswith("patch_"):
            yield node.lineno
        elif isinstance(node, ast.ImportFrom) and node.module == "gevent.monkey":
            yield node.lineno


def test_nothing_is_ever_patched() -> None:
    """No module of the package patches the standard library."""
    wrong = [f"{path.relative_to(PACKAGE)}:{line}" for path in FILES for line in patches(path)]
    assert "\n".join(wrong) == ""


Documented = ast.Module | ast.ClassDef | ast.FunctionDef


def undocumented(node: Documented, name: str) -> Iterator[str]:
    """The public names without a docstring in a module or class."""
    if ast.get_docstring(node) is None:
        yield name
    if isinstance(node, ast.FunctionDef):
        return
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef) and is_public(child):
            yield from undocumented(child, f"{name}.{child.name}")


def is_public(node: ast.ClassDef | ast.FunctionDef) -> bool:
    """Whether a name is for others; overloads and setters are told by what they belong to."""
    decorators = [ast.unparse(decorator) for decorator in node.decorator_list]
    is_told_elsewhere = any(d == "overload" or d.endswith(".setter") for d in decorators)
    return not node.name.startswith("_") and not is_told_elsewhere


def test_everything_public_has_a_docstring() -> None:
    """Modules, and their public classes and functions, say what they are for."""
    wrong = [
        name for path in FILES for name in undocumented(ast.parse(path.read_text()), module_name(path))
    ]
    assert "\n".join(wrong) == ""
