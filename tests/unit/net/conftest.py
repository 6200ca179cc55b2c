"""Fixtures of the tests of sockets."""

import socket

import pytest


@pytest.fixture
def pair():
    """Two connected sockets."""
    left, right = socket.socketpair()
    yield left, right
    left.close()
    right.close()
