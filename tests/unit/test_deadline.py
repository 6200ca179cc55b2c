"""A deadline is shared by the steps of one operation."""

import math

from shotover_gevent.deadline import Deadline


def test_a_deadline_without_a_limit_is_never_over():
    """None means for ever, as gevent's timeouts take it."""
    deadline = Deadline.after(None)
    assert (deadline.left(), deadline.is_over, deadline.at) == (None, False, math.inf)


def test_a_deadline_in_the_past_has_nothing_left():
    """What is over has zero seconds left, not less."""
    deadline = Deadline.after(-5)
    assert (deadline.left(), deadline.is_over) == (0.0, True)


def test_time_left_never_exceeds_what_was_given():
    """Steps share the time."""
    left = Deadline.after(10).left()
    assert left is not None and 9 < left <= 10
