"""``docs/parity.rst`` names tests that exist, and says why where there are none."""

from __future__ import annotations

import ast
import re

import pytest

from tests.test_docs import ROOT, literals, rows

PAGE = "docs/parity.rst"
TEST = re.compile(r"(tests/[\w/]+\.py)::(test_\w+)")


def names_in(path: str) -> set[str]:
    """The names of the tests in a file."""
    tree = ast.parse((ROOT / path).read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_every_test_that_is_named_exists() -> None:
    """Path and name; one that was renamed fails here."""
    named = {match.groups() for text in literals(PAGE) if (match := TEST.fullmatch(text))}
    assert len(named) > 30
    missing = [
        f"{path}::{name}" for path, name in sorted(named)
        if not (ROOT / path).is_file() or name not in names_in(path)
    ]
    assert missing == []


@pytest.mark.parametrize("heading", ["The runner", "Transforms"])
def test_every_row_has_tests_or_a_reason(heading: str) -> None:
    """A reason begins with "none: "."""
    table = rows(PAGE, heading)
    wrong = [row for row in table if not (TEST.search(row[1]) or row[1].startswith("none: "))]
    assert (len(table) > 10, wrong) == (True, [])
