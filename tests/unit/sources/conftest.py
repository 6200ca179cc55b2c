"""Sources leave no descriptor open."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.inprocess import keeps_descriptors


@pytest.fixture(autouse=True)
def descriptors_are_kept() -> Iterator[None]:
    """As many descriptors are open after a test as before."""
    with keeps_descriptors():
        yield
