"""The kit has what it says, and a program that starts processes only does not pay for the rest."""

from __future__ import annotations

import subprocess
import sys

import pytest

from shotover_gevent import testing


def test_every_name_is_there() -> None:
    """Whether it is imported at once or when it is first used; one that is not is an error as usual."""
    assert [name for name in testing.__all__ if not hasattr(testing, name)] == []
    with pytest.raises(AttributeError):
        testing.nothing  # noqa: B018


@pytest.mark.parametrize("module", ["shotover_gevent.testing", "shotover_gevent.testing.server"])
def test_what_starts_processes_needs_no_transforms(module: str) -> None:
    """Neither gevent nor pydantic is imported for it."""
    code = f"import sys, {module}; print([m for m in ('gevent', 'pydantic') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"
