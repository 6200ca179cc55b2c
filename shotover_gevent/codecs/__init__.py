"""Sans-I/O codecs: bytes in, batches out. Nothing here knows gevent or a socket."""

from shotover_gevent.codecs.batch import Batch, Codec, Message

__all__ = ["Batch", "Codec", "Message"]
