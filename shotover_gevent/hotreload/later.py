"""Sessions that were busy when their process was replaced move when they fall idle."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence

import gevent

from shotover_gevent.deadline import Deadline
from shotover_gevent.errors import HotReloadError, causes
from shotover_gevent.hotreload.client import connect
from shotover_gevent.hotreload.count import ReloadCounts
from shotover_gevent.hotreload.dialect import STEP_S, Line
from shotover_gevent.hotreload.moving import Moved, move
from shotover_gevent.hotreload.peer import credentials
from shotover_gevent.sources.source import Source

logger = logging.getLogger(__name__)

# How often the sessions that stayed are looked at: a client notices no more than that its
# connection is served by the old process for that much longer.
LOOK_S = 0.2


def move_later(
    path: str, sources: Sequence[Source], moved: Moved, seconds: float, counts: ReloadCounts
) -> None:
    """Offer sessions to whoever serves ``path``, as they fall idle, for ``seconds``.

    A failure costs nothing: those sessions are drained when the time is over.
    """
    deadline = Deadline.after(seconds)
    while not deadline.is_over:
        gevent.sleep(LOOK_S)
        waiting = {s for source in sources for s in source.sessions} - moved.staying
        if not waiting:
            return
        if any(session.is_idle for session in waiting):
            before = moved.moved
            try:
                _offer(path, sources, moved)
            except (HotReloadError, OSError) as error:
                logger.info("sessions could not move yet: %s", ": ".join(causes(error)))
            finally:
                counts.moved_late(moved.moved - before)


def _offer(path: str, sources: Sequence[Source], moved: Moved) -> None:
    before = moved.moved
    with Line(connect(path, Deadline.after(STEP_S))) as line:
        who = credentials(line.socket)
        if who.pid == os.getpid() or who.uid not in (0, os.geteuid()):
            return
        line.send("Offer", {"pid": os.getpid()})
        line.expect("Go")
        move(line, sources, 0.0, moved)
        line.send("End", moved.as_json())
    if moved.moved > before:
        logger.info("%d sessions moved late to process %d", moved.moved - before, who.pid)
