"""What the author of a transform sees: batches, messages, and ``responses = next(requests)``."""

from shotover_gevent.chain.steps import Steps
from shotover_gevent.chain.transform import (
    BuildContext,
    Next,
    SessionContext,
    Sink,
    Transform,
    TransformConfig,
)
from shotover_gevent.codecs.batch import Batch, Message

__all__ = [
    "Batch",
    "BuildContext",
    "Message",
    "Next",
    "SessionContext",
    "Sink",
    "Steps",
    "Transform",
    "TransformConfig",
]
