"""Where an engine's answer refers to, as its client can reach it. Pure.

An engine knows itself by the Host header that the gateway sends: its private address, `localhost` behind a unix socket.
A client must be sent neither, so a reference to the engine itself becomes a path on the client's own address.
"""

import re
from typing import Final

_ABSOLUTE: Final = re.compile(rb"(?:https?:)?//([^/?#\\]*)", re.IGNORECASE)

_REFRESH: Final = re.compile(rb"\s*[0-9.]*\s*[;,]\s*(?:url\s*=\s*)?[\"']?", re.IGNORECASE)
"""What is before the address in a `Refresh` header."""

_ITSELF: Final = frozenset({b"localhost", b"127.0.0.1", b"0.0.0.0", b"[::1]", b"[::]"})
"""What an engine may call itself, whatever it was called."""


def of_endpoint(value: bytes, host: bytes, root_path: bytes) -> bytes:
    """The value of `Location`, `Content-Location` or `Refresh`, if the engine at `host` is meant by it; else as it is.

    `root_path` is what clients put before every path, and engines do not see.
    """
    before = _REFRESH.match(value)
    start = before.end() if before is not None else 0
    absolute = _ABSOLUTE.match(value, start)
    if absolute is None:
        return value[:start] + root_path + value[start:] if value.startswith(b"/", start) else value
    if not _is_itself(absolute.group(1), host):
        return value
    # One slash: with two, the next part of the path would be taken for a host.
    rest = value[absolute.end() :]
    path = rest if rest[:1] in (b"?", b"#") else rest.lstrip(b"/\\")
    return value[:start] + root_path + b"/" + path


def _is_itself(authority: bytes, host: bytes) -> bool:
    authority = authority.rpartition(b"@")[2].lower()
    return authority == host.lower() or _name(authority) in _ITSELF or _name(authority) == _name(host.lower())


def _name(authority: bytes) -> bytes:
    """The host without its port."""
    name, colon, port = authority.rpartition(b":")
    return name if colon and (port.isdigit() or not port) else authority
