"""A transform of your own: every GET is answered by one configured value.

The topology names it by its dotted path (``topology.yaml`` beside this file), so this folder has to be
on the module path:

    PYTHONPATH=examples/custom_transform shotover-gevent serve \\
        -t examples/custom_transform/topology.yaml -c examples/config.yaml
"""

from __future__ import annotations

from shotover_gevent.chain import Batch, Next, SessionContext, Transform, TransformConfig
from shotover_gevent.chain.handoff import REBUILT


class ValkeyGetRewrite(TransformConfig):
    """Answers GET by ``result``; the server is asked all the same."""

    result: str

    def session(self, context: SessionContext) -> Transform:
        """The transform of one client session."""
        return Rewriter(self.result.encode())


class Rewriter(Transform):
    """Replaces responses; everything else passes as the bytes that arrived."""

    fates = {"result": REBUILT}  # by session(), in whatever process the session lives

    def __init__(self, result: bytes) -> None:
        self.result = result

    def transform(self, requests: Batch, next: Next) -> Batch:
        """``responses[i]`` answers ``requests[i]``."""
        responses = next(requests)
        for i, command in enumerate(requests.values):
            if command[0].upper() == b"GET":
                responses[i].frame = self.result
        return responses
