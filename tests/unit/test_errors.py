"""Errors render as Shotover's users know them."""

import errno

from shotover_gevent.errors import ConfigError, Problem, causes, os_error_text, render


def test_one_cause_is_indented_without_a_number():
    """One cause is indented by four spaces on every line."""
    assert render("Failed", ["a\nb"]) == "Failed\n\nCaused by:\n    a\n    b"


def test_several_causes_are_numbered():
    """Several causes are numbered, and their further lines are indented by seven."""
    assert render("Failed", ["a\nb", "c"]) == "Failed\n\nCaused by:\n    0: a\n       b\n    1: c"


def test_no_cause_is_the_head_alone():
    """Without a cause there is no list."""
    assert render("Failed", []) == "Failed"


def test_causes_follow_the_chain_and_name_the_os_error():
    """An OSError is printed as Rust prints it."""
    try:
        try:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "x")
        except OSError as error:
            raise RuntimeError("Failed to connect") from error
    except RuntimeError as error:
        found = list(causes(error))
    assert found == ["Failed to connect", "Connection refused (os error 111)"]


def test_an_os_error_without_a_number_keeps_its_text():
    """Errors that we raise ourselves have no number."""
    assert os_error_text(TimeoutError("the peer reads nothing")) == "the peer reads nothing"


def test_a_config_error_reports_all_problems_and_counts_them():
    """Each problem names its place, what was found, and a way out."""
    error = ConfigError(
        [
            Problem("t.yaml", 12, 9, "sources[0].x", "unknown field", 'did you mean "y"?'),
            Problem("t.yaml", 0, 0, "", "No such file or directory (os error 2)"),
        ]
    )
    assert str(error) == (
        't.yaml:12:9  sources[0].x: unknown field\n    did you mean "y"?\n'
        "t.yaml  No such file or directory (os error 2)\n"
        "2 problems; nothing was started"
    )
