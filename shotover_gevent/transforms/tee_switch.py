"""The HTTP interface of a Tee: which of its chains answers the clients.

GET /                               what there is
GET /transform/tee/result-source    ``regular-chain`` or ``tee-chain``
PUT /transform/tee/result-source    the same words as the body; for all sessions, from now on
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from shotover_gevent.transforms.http_switch import MAX_BODY_BYTES, HttpSwitch

if TYPE_CHECKING:
    from shotover_gevent.transforms.tee import Tee

__all__ = ["MAX_BODY_BYTES", "PATH", "Switch"]

# Shotover's module; its users' log rules name it.
_TARGET = {"target": "shotover::transforms::tee"}

PATH = "/transform/tee/result-source"

logger = logging.getLogger(__name__)


class Switch(HttpSwitch):
    """A WSGI application that shows and sets the result source of one Tee."""

    def __init__(self, tee: Tee) -> None:
        super().__init__(PATH, "a result source", lambda: tee.result_source.value, self._set)
        self._tee = tee

    def _set(self, text: str) -> None:
        try:
            source = type(self._tee.result_source)(text)
        except ValueError:
            raise ValueError(
                f'Invalid value for result source: "{text}", '
                "should be 'tee-chain' or 'regular-chain'") from None
        self._tee.switch_to(source)
        logger.info("result source set to %s", text, extra=_TARGET)
