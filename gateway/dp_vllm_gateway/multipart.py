"""Reads single text fields of a multipart/form-data body (RFC 7578), which passes on as it came. Pure.

Only the body's beginning and end are read: a file between them may be large, and clients put short fields before or
behind it. Wherever a delimiter stands it is one, so reading may begin anywhere.
"""

import re
from typing import Final

WINDOW_BYTES: Final = 64 << 10
"""So much is read at either end."""

MAX_BOUNDARY_BYTES: Final = 70
"""RFC 2046, 5.1.1."""

MAX_PARTS: Final = 100
"""So many parts are looked at from either end, and of each so many bytes of headers and of value."""

TRUE: Final = frozenset({"1", "on", "t", "true", "y", "yes"})
"""Texts that engines (pydantic) take for true, in upper or lower case."""

MAX_HEAD_BYTES: Final = 8 << 10
MAX_VALUE_BYTES: Final = 1024

_MEDIA_TYPE: Final = re.compile(rb"\s*multipart/form-data\s*(?=;)", re.IGNORECASE)
_PARAMETER: Final = re.compile(rb'\s*;\s*([!#$%&\'*+.^_`|~0-9A-Za-z-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;"]+))')
_DISPOSITION: Final = re.compile(rb"(?:^|\r\n)content-disposition:\s*form-data\s*(?=;)", re.IGNORECASE)
_ESCAPE: Final = re.compile(rb'\\(["\\])')


def text_field(body: bytes, content_type: bytes, name: bytes) -> str | None:
    """The last value of this field, as engines read it; None if none was found or the body is no such form."""
    media_type = _MEDIA_TYPE.match(content_type) if len(content_type) <= MAX_VALUE_BYTES else None
    boundary = _parameters(content_type, media_type.end()).get(b"boundary") if media_type else None
    if not boundary or len(boundary) > MAX_BOUNDARY_BYTES:
        return None
    delimiter = b"\r\n--" + boundary
    if len(body) <= 2 * WINDOW_BYTES:
        return _last(b"\r\n" + body, delimiter, name)
    found = _last(body[-WINDOW_BYTES:], delimiter, name)
    return found if found is not None else _last(b"\r\n" + body[:WINDOW_BYTES], delimiter, name)


def is_true(body: bytes, content_type: bytes, name: bytes) -> bool:
    """Whether this field says yes."""
    value = text_field(body, content_type, name)
    return value is not None and value.lower() in TRUE


def _last(text: bytes, delimiter: bytes, name: bytes) -> str | None:
    """The field's last value in a part of a body. What no delimiter precedes or follows is left out."""
    end = text.rfind(delimiter)
    for _ in range(MAX_PARTS):
        begin = text.rfind(delimiter, 0, max(end, 0))
        if begin < 0:
            return None
        head_end = text.find(b"\r\n\r\n", begin, end)
        short = head_end >= 0 and end - head_end <= MAX_VALUE_BYTES + 4
        if short and _is_text_field(text[begin + len(delimiter) : head_end], name):
            return text[head_end + 4 : end].decode(errors="replace")
        end = begin
    return None


def _is_text_field(head: bytes, name: bytes) -> bool:
    disposition = _DISPOSITION.search(head)
    if disposition is None or len(head) > MAX_HEAD_BYTES:
        return False
    parameters = _parameters(head, disposition.end())
    return parameters.get(b"name") == name and not {b"filename", b"filename*"} & parameters.keys()


def _parameters(text: bytes, at: int) -> dict[bytes, bytes]:
    """The parameters of a header's value from there on, the first of each name."""
    found: dict[bytes, bytes] = {}
    while (match := _PARAMETER.match(text, at)) is not None:
        name, quoted, token = match.groups()
        found.setdefault(name.lower(), token if quoted is None else _ESCAPE.sub(rb"\1", quoted))
        at = match.end()
    return found
