"""RESP, the protocol of Valkey and Redis: the codec, and the decoders of either direction."""

from shotover_gevent.codecs.resp_codec import RESP, RespCodec
from shotover_gevent.codecs.resp_replies import ReplyScanner, reply_ends
from shotover_gevent.codecs.resp_requests import MalformedRequest, RequestDecoder

__all__ = ["RESP", "MalformedRequest", "ReplyScanner", "RequestDecoder", "RespCodec", "reply_ends"]
