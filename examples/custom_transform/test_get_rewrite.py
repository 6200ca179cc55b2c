"""The tests of the transform beside this file, by the public test kit: ``pytest examples/custom_transform``."""

from __future__ import annotations

from get_rewrite import ValkeyGetRewrite

from shotover_gevent.testing import check_transform, run_transcript

REWRITE = ValkeyGetRewrite(name="rewrite", result="rewritten")


def test_get_is_answered_by_the_configured_value() -> None:
    """The server is asked all the same, and all other answers are its own."""
    run_transcript([REWRITE], r"""
        >  b"get k\r\nSTRLEN k\r\n"
        >> b"get k\r\nSTRLEN k\r\n"
        << hello
        << :5
        <  rewritten
        <  :5
    """)


def test_it_keeps_the_contract() -> None:
    """Whatever is asked, however it is cut into batches, and also when the session moves."""
    check_transform(REWRITE)
