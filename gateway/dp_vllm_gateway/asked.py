"""A request as it came, before anything is decided."""

import msgspec
from aiohttp import StreamReader, web

from dp_vllm_gateway.heads import Incoming


class Asked(msgspec.Struct, frozen=True):
    """A request's head, and its body or where it comes from."""

    method: str
    target: str
    """As the client wrote it."""
    incoming: Incoming
    body: bytes | StreamReader
    http10: bool = False
    keep_alive: bool = True
    """The connection stays open after the answer, as far as the client says."""
    upgrade: web.BaseRequest | None = None
    """The same for aiohttp, if the client asks for another protocol."""
