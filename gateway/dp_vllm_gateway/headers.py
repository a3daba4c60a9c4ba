"""Which header lines cross the gateway, and what it reads of them. Pure: bytes in, lines out.

Framing and connection headers belong to one connection and are never copied (RFC 9110, 7.6.1).
"""

import functools
from collections.abc import Sequence
from typing import Final

from dp_vllm import names
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


# What becomes of a header of an answer. Numbers: members of an Enum are slow to come by before Python 3.12.
_COPIED: Final = 0
_DROPPED: Final = 1
_LENGTH: Final = 2
_TYPE: Final = 3
_CODING: Final = 4
_CONNECTION: Final = 5
"""It names headers that go no further."""
_TRANSFER: Final = 6
_PLACE: Final = 7
"""It may name the engine's own address."""
_VARY: Final = 8

_SAID_HERE: Final = frozenset({b"x-request-id", names.REASON_HEADER.encode(), names.REPLICA_HEADER.encode()})
"""What the gateway itself says of every answer."""

_USES: Final = {
    **dict.fromkeys(HOP_BY_HOP | _SAID_HERE, _DROPPED),
    b"connection": _CONNECTION,
    b"content-encoding": _CODING,
    b"content-length": _LENGTH,
    b"content-location": _PLACE,
    b"content-type": _TYPE,
    b"location": _PLACE,
    b"refresh": _PLACE,
    b"transfer-encoding": _TRANSFER,
    b"vary": _VARY,
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
    lines: list[bytes] = []
    content_type = b""
    length = None
    encoded = False
    for name, value in raw:
        use, begin = _use(name)
        if use == _COPIED:
            lines.append(begin + value)
        elif use == _LENGTH:
            length = int(value)
        elif use == _TYPE:
            content_type = value
            lines.append(begin + value)
        elif use == _CODING:
            encoded = value.lower() != b"identity"
            lines.append(begin + value)
        elif use == _CONNECTION and value.lower() not in (b"keep-alive", b"close"):
            return returning(_end_to_end(raw), host, root_path)
        elif use != _DROPPED and (changed := _changed(use, value, host, root_path)):
            lines.append(begin + changed)
    lines.append(b"")
    return Returning(b"\r\n".join(lines), content_type, length, encoded)


@functools.lru_cache(maxsize=256)
def _use(name: bytes) -> tuple[int, bytes]:
    """What becomes of a header of an answer, and how its line begins. Engines send the same few names."""
    use = _DROPPED if name.startswith(b"access-control-") else _USES.get(name, _COPIED)
    return use, name + b": "


def _end_to_end(raw: Sequence[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Without `Connection` and what any of its lines names, but for what frames the body."""
    lines = (value for name, value in raw if name == b"connection")
    named = {b"connection"} | {name.strip().lower() for line in lines for name in line.split(b",")}
    return [(name, value) for name, value in raw if name not in named or _USES.get(name) in _FRAMING]


_FRAMING: Final = frozenset({_LENGTH, _TRANSFER})


def _changed(use: int, value: bytes, host: bytes, root_path: bytes) -> bytes:
    """The value that the client is sent instead; empty for none."""
    if use == _PLACE:
        return places.of_endpoint(value, host, root_path)
    if use == _VARY:
        return _without_origin(value)
    if use == _TRANSFER and value.lower() != b"chunked":
        raise BadAnswer(f"transfer-encoding {value.decode('latin-1')!r} is not taken; chunked is")
    return b""


def _without_origin(vary: bytes) -> bytes:
    """The header without `Origin`: the gateway says whether an answer depends on that."""
    if vary == b"Origin":  # what engines send with every answer
        return b""
    return b", ".join(name for each in vary.split(b",") if (name := each.strip()).lower() not in (b"", b"origin"))
