"""Which header lines cross the gateway, and what it reads of them. Pure: bytes in, lines out.

Framing and connection headers belong to one connection and are never copied (RFC 9110, 7.6.1).
"""

import enum
import functools
from collections.abc import Sequence
from typing import Final

from dp_vllm_gateway import places
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


class BadAnswer(ValueError):
    """An answer's headers say something that HTTP does not allow, or frame its body in a way that is not taken."""


class _Use(enum.Enum):
    """What becomes of a header of an answer."""

    DROPPED = "is not the client's"
    LENGTH = "says how long the body is"
    TYPE = "says what the body is"
    CODING = "says whether the body is compressed"
    TRANSFER = "says how the body is framed"
    CONNECTION = "names headers that go no further"
    PLACE = "may name the engine's own address"
    VARY = "may name what the gateway decides instead"


_USES: Final = {
    **dict.fromkeys(HOP_BY_HOP | {b"x-request-id"}, _Use.DROPPED),
    b"connection": _Use.CONNECTION,
    b"content-encoding": _Use.CODING,
    b"content-length": _Use.LENGTH,
    b"content-location": _Use.PLACE,
    b"content-type": _Use.TYPE,
    b"location": _Use.PLACE,
    b"refresh": _Use.PLACE,
    b"transfer-encoding": _Use.TRANSFER,
    b"vary": _Use.VARY,
}
"""Of others, those that begin with `access-control-` are dropped: the endpoint decides which pages may read it."""


def incoming(raw: Sequence[tuple[bytes, bytes]]) -> Incoming:
    """Divide a request's headers into those that go on and those that are read here."""
    lines: list[bytes] = []
    read: dict[bytes, bytes] = {}
    for name, value in raw:
        lower, begin = known(name)
        if lower is not None:
            if lower not in read:
                read[lower] = value
            elif lower == b"connection":
                read[lower] += b", " + value
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


def returning(raw: Sequence[tuple[bytes, bytes]], host: bytes = b"", root_path: bytes = b"") -> Returning:
    """Divide an answer's headers (names in lower case) likewise. `host` is the engine's address as it was sent there.

    Raises BadAnswer.
    """
    parts: list[bytes] = []
    content_type = b""
    length = None
    encoded = False
    for name, value in raw:
        use = _use(name)
        if use is None:
            parts += (name, b": ", value, b"\r\n")
        elif use is _Use.LENGTH:
            length = int(value)
        elif use is _Use.TYPE:
            content_type = value
            parts += (name, b": ", value, b"\r\n")
        elif use is _Use.CODING:
            encoded = value.lower() != b"identity"
            parts += (name, b": ", value, b"\r\n")
        elif use is _Use.CONNECTION and value.lower() not in (b"keep-alive", b"close"):
            return returning(_end_to_end(raw), host, root_path)
        elif changed := _changed(use, value, host, root_path):
            parts += (name, b": ", changed, b"\r\n")
    return Returning(b"".join(parts), content_type, length, encoded)


@functools.lru_cache(maxsize=256)
def _use(name: bytes) -> _Use | None:
    """What becomes of a header of an answer; None: it is the client's as it is. Engines send the same few names."""
    return _Use.DROPPED if name.startswith(b"access-control-") else _USES.get(name)


def _end_to_end(raw: Sequence[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Without `Connection` and what any of its lines names, but for what frames the body."""
    lines = (value for name, value in raw if name == b"connection")
    named = {b"connection"} | {name.strip().lower() for line in lines for name in line.split(b",")}
    return [(name, value) for name, value in raw if name not in named or _USES.get(name) in _FRAMING]


_FRAMING: Final = frozenset({_Use.LENGTH, _Use.TRANSFER})


def _changed(use: _Use, value: bytes, host: bytes, root_path: bytes) -> bytes:
    """The value that the client is sent instead; empty for none."""
    if use is _Use.PLACE:
        return places.of_endpoint(value, host, root_path)
    if use is _Use.VARY:
        return _without_origin(value)
    if use is _Use.TRANSFER and value.lower() != b"chunked":
        raise BadAnswer(f"transfer-encoding {value.decode('latin-1')!r} is not taken; chunked is")
    return b""


def _without_origin(vary: bytes) -> bytes:
    """The header without `Origin`: the gateway says whether an answer depends on that."""
    if vary == b"Origin":  # what engines send with every answer
        return b""
    return b", ".join(name for each in vary.split(b",") if (name := each.strip()).lower() not in (b"", b"origin"))
