"""Fixtures of the reload's tests."""

import logging
import os
import shutil
import tempfile

import gevent
import pytest
from reload_kit import open_count, wait_until


@pytest.fixture(autouse=True)
def log(caplog):
    """All log lines from INFO on."""
    caplog.set_level(logging.INFO)
    return caplog


@pytest.fixture
def folder():
    """A directory with a short path that every user may enter."""
    path = tempfile.mkdtemp(prefix="reload-")
    os.chmod(path, 0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def path(folder):
    """Where the control socket goes."""
    return os.path.join(folder, "control.sock")


@pytest.fixture(autouse=True)
def no_leak():
    """Every test leaves as many descriptors open as it found."""
    gevent.sleep(0.001)  # the loop opens what it needs
    before = open_count()
    yield
    wait_until(lambda: open_count() == before)
