"""Which header lines cross the gateway, and what it reads of them. Pure: bytes in, lines out.

Framing and connection headers belong to one connection and are never copied (RFC 9110, 7.6.1).
"""

import functools
from collections.abc import Iterable, Sequence
from typing import Final

from dp_vllm_gateway.heads import Incoming, Returning

HOP_BY_HOP: Final = frozenset(
    {
        b"alt-svc",
        b"connection",
        b"content-length",
        b"expect",
        b"host",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
OURS: Final = frozenset(
    {
        b"authorization",
        b"x-api-key",
        b"x-data-parallel-rank",  # an independent replica refuses any rank but 0
        b"x-dp-vllm-priority",
        b"x-dp-vllm-wait",
        b"x-request-id",
    }
)
"""Read by the gateway, or not an engine's business."""

READ_TOO: Final = frozenset(
    {
        b"access-control-request-headers",
        b"access-control-request-method",
        b"content-encoding",
        b"content-type",
        b"origin",
        b"user-agent",  # once, or the request is malformed
        b"x-session-id",
    }
)
"""Copied, and read by the gateway."""

_READ_ONLY: Final = dict.fromkeys(HOP_BY_HOP | OURS, False)
_READ: Final = _READ_ONLY | dict.fromkeys(READ_TOO, True)
"""For each header that the gateway reads: whether it is copied as well."""

_NOT_RETURNED: Final = HOP_BY_HOP | {b"x-request-id"}


def incoming(raw: Sequence[tuple[bytes, bytes]]) -> Incoming:
    """Divide a request's headers into those that go on and those that are read here."""
    lines: list[bytes] = []
    read: dict[bytes, bytes] = {}
    for name, value in raw:
        lower, begin = known(name)
        if lower is not None and lower not in read:
            read[lower] = value
        if begin is not None:
            lines.append(begin + value)
    named = read.get(b"connection")
    if named is not None and named.lower() not in (b"keep-alive", b"close"):
        lines = [b"%b: %b" % each for each in _without(raw, named)]
    lines.append(b"")
    return Incoming(b"\r\n".join(lines), read)


@functools.lru_cache(maxsize=256)
def known(name: bytes) -> tuple[bytes | None, bytes | None]:
    """Its name here if it is read, and how its line begins if it is copied. Clients send the same few names."""
    lower = name.lower()
    copied = _READ.get(lower)
    return None if copied is None else lower, None if copied is False else name + b": "


def _without(raw: Sequence[tuple[bytes, bytes]], connection: bytes) -> list[tuple[bytes, bytes]]:
    """What is copied when `Connection` names headers: they go no further either."""
    named = {name.strip().lower() for name in connection.split(b",")}
    return [(name, value) for name, value in raw if _READ.get(name.lower()) is not False and name.lower() not in named]


def returning(raw: Iterable[tuple[bytes, bytes]]) -> Returning:
    """Divide an answer's headers (names in lower case) likewise."""
    parts: list[bytes] = []
    content_type = b""
    length = None
    encoded = False
    for name, value in raw:
        if name == b"content-length":
            length = int(value)
        elif name in _NOT_RETURNED:
            continue
        else:
            if name == b"content-type":
                content_type = value
            elif name == b"content-encoding":
                encoded = value.lower() != b"identity"
            parts += (name, b": ", value, b"\r\n")
    return Returning(b"".join(parts), content_type, length, encoded)
