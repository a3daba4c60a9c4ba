"""What the gateway reads of a request's head and of an answer's."""

import re
from typing import Final

import msgspec

_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._-]{1,128}")


class Incoming(msgspec.Struct, frozen=True, gc=False):
    """A request's headers, as far as the gateway reads them."""

    lines: bytes
    """What the engine is sent, each line with its end."""
    read: dict[bytes, bytes]
    """What the gateway reads, by lower-case name; the first of each, and every `Connection`."""

    def bearer(self) -> bytes | None:
        """The key that was sent, as OpenAI's or as Anthropic's clients send it."""
        authorization = self.read.get(b"authorization")
        if authorization is not None:
            scheme, _, key = authorization.partition(b" ")
            return key.strip() if scheme.lower() == b"bearer" else None
        return self.read.get(b"x-api-key")

    def request_id(self) -> bytes | None:
        """The client's own id for the request, if it is one that logs and headers can bear."""
        value = self.read.get(b"x-request-id")
        return value if value is not None and _REQUEST_ID.fullmatch(value) else None


class Returning(msgspec.Struct, frozen=True, gc=False):
    """An answer's headers, as far as the gateway reads them."""

    lines: bytes
    """What the client is sent, each line with its end; nothing that frames the body."""
    content_type: bytes
    length: int | None
    encoded: bool
    """The body is compressed, so that it cannot be looked into."""
