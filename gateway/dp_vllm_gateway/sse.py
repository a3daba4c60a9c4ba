"""Server-sent events as three dialects speak them: where one ends, what it says, and how a failure is told.

Only whole events are passed on to a client, so a stream can always be ended with an error event that its reader
understands.
"""

import enum
import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from dp_vllm.engine.routes import Dialect
from dp_vllm_gateway import bounds

_EVENT_END: Final = re.compile(rb"\r?\n\r?\n")


class Kind(enum.Enum):
    """What an event means for the stream."""

    COMMENT = "says nothing"
    CONTENT = "is for the client"
    END = "ends the stream as it should"
    ABORTED = "says that the engine gave the request up"
    ERROR = "says that the engine failed"


USAGE: Final = b'"usage":'
"""The key before the tokens that an engine counted."""

SUSPECT: Final[dict[Dialect, tuple[bytes, ...]]] = {
    Dialect.COMPLETIONS: (b'"abort"', b'"error"'),
    Dialect.RESPONSES: (b'"cancelled"', b'"error"', b'"response.failed"'),
    Dialect.MESSAGES: (b'"message_delta"', b'"error"'),
    Dialect.OTHER: (USAGE,),
}
"""An event without any of these tokens does not say that the engine failed. A quotation mark inside of JSON text is
escaped, so text cannot contain them by chance."""

CONTENT_ENDS: Final[dict[Dialect, tuple[bytes, ...]]] = {
    Dialect.COMPLETIONS: (b"}]}\n\n", b":null}\n\n"),
    Dialect.RESPONSES: (b'.delta"}\n\n',),
    Dialect.MESSAGES: (b'"}}\n\n', b'"index":0}\n\n', b'"index":1}\n\n', b'"index":2}\n\n'),
    Dialect.OTHER: (b"\n\n",),
}
"""How an event ends that is content and no more: neither a usage, nor the stream's end, nor a comment. An engine may
write content in another way: then it is read, which takes longer."""


def _framed(ends: tuple[bytes, ...]) -> tuple[bytes, ...]:
    return tuple(end + b"\r\n" for end in ends)


FRAMED_CONTENT_ENDS: Final = {dialect: _framed(ends) for dialect, ends in CONTENT_ENDS.items()}
"""The same at the end of a chunk that is still framed."""


def split(data: bytes) -> tuple[bytes, bytes]:
    """Divide at the last event's end: whole events, and the beginning of one that is still to come."""
    end = data.rfind(b"\n\n") + 2
    crlf = data.rfind(b"\n\r\n") + 3
    end = max(end if end > 1 else 0, crlf if crlf > 2 else 0)
    return data[:end], data[end:]


class Pending:
    """The beginning of an event whose end is still to come. Takes time in proportion to what it is given."""

    __slots__ = ("_end", "_pieces", "size")

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._end = b""
        """Its last two bytes: an empty line may be cut in two."""
        self.size = 0

    def take(self, data: bytes) -> bytes:
        """Add what came next; the events that are whole now."""
        before = self._end
        whole, tail = split(before + data if before else data)
        if not whole:
            self._add(data, tail)
            return b""
        if self._pieces:
            whole = b"".join((*self._pieces, whole[len(before) :]))
            self._pieces = []
        self.size = 0
        self._end = b""
        if tail:
            self._add(tail, tail)
        return whole

    def release(self) -> bytes:
        """All that is held, although it is no whole event."""
        held = b"".join(self._pieces)
        self._pieces, self._end, self.size = [], b"", 0
        return held

    def _add(self, data: bytes, ending: bytes) -> None:
        self._pieces.append(data)
        self.size += len(data)
        self._end = ending[-2:]


_COMMENTS: Final = re.compile(rb"(?:(?::[^\n]*\n)*\r?\n)+")


def without_comments(whole: bytes) -> bytes:
    """The events of `whole` from the first one on that is no comment."""
    match = _COMMENTS.match(whole)
    return whole[match.end() :] if match is not None else whole


def events(whole: bytes) -> Iterator[bytes]:
    """Each event of `whole`, with the empty line that ends it."""
    start = 0
    for match in _EVENT_END.finditer(whole):
        yield whole[start : match.end()]
        start = match.end()


class _Choice(msgspec.Struct):
    finish_reason: str | None = None


class _Response(msgspec.Struct):
    status: str | None = None


class _Said(msgspec.Struct):
    type: str = ""
    error: Any = None
    choices: list[_Choice] = []
    delta: Any = None
    response: _Response | None = None


class _Created(msgspec.Struct):
    response: dict[str, Any]


_SAID: Final = msgspec.json.Decoder(_Said)


def data_of(event: bytes) -> bytes:
    """The event's data lines, joined."""
    return b"\n".join(line[5:].strip() for line in event.splitlines() if line.startswith(b"data:"))


def kind_of(event: bytes, dialect: Dialect) -> Kind:
    """What one whole event means. What cannot be read is content: it is not ours to judge."""
    if event.startswith(b":") and event.find(b"\ndata:") < 0:
        return Kind.COMMENT
    data = data_of(event)
    if not data:
        return Kind.COMMENT
    if data == b"[DONE]":
        return Kind.END
    try:
        said = _SAID.decode(data)
    except (ValueError, RecursionError):
        return Kind.CONTENT
    match dialect:
        case Dialect.COMPLETIONS:
            return _completions(said)
        case Dialect.RESPONSES:
            return _responses(said)
        case Dialect.MESSAGES:
            return _messages(said)
        case Dialect.OTHER:
            return Kind.CONTENT


_END_NAMES: Final[dict[Dialect, tuple[bytes, ...]]] = {
    Dialect.COMPLETIONS: (b"data: [DONE]", b"data:[DONE]"),
    Dialect.RESPONSES: (b"event: response.completed", b"event: response.incomplete"),
    Dialect.MESSAGES: (b"event: message_stop",),
    Dialect.OTHER: (),
}


def names_end(data: bytes, dialect: Dialect) -> bool:
    """Whether the beginning of an event, which is not whole or too long to be read, is that of a stream's end."""
    return data.startswith(_END_NAMES[dialect])


def _completions(said: _Said) -> Kind:
    if said.error:
        return Kind.ERROR
    if any(choice.finish_reason == "abort" for choice in said.choices):
        return Kind.ABORTED
    return Kind.CONTENT


def _responses(said: _Said) -> Kind:
    if said.error or said.type in ("error", "response.failed"):
        return Kind.ERROR
    if said.response is not None and said.response.status == "cancelled":
        return Kind.ABORTED
    return Kind.END if said.type in ("response.completed", "response.incomplete") else Kind.CONTENT


def _messages(said: _Said) -> Kind:
    if said.error or said.type == "error":
        return Kind.ERROR
    if said.type == "message_delta" and isinstance(said.delta, dict) and said.delta.get("stop_reason") is None:
        return Kind.ABORTED
    return Kind.END if said.type == "message_stop" else Kind.CONTENT


def error_event(dialect: Dialect, message: str, first: bytes = b"", last: bytes = b"") -> bytes:
    """The event that ends a stream which its engine did not finish.

    `first` and `last` are events that the client was sent: the Responses dialect repeats their ids.
    """
    match dialect:
        case Dialect.RESPONSES:
            return _response_failed(message, first, last)
        case Dialect.MESSAGES:
            body = {"type": "error", "error": {"type": "api_error", "message": message}}
            return b"event: error\ndata: " + msgspec.json.encode(body) + b"\n\n"
        case _:
            body = {"error": {"message": message, "type": "server_error", "param": None, "code": 502}}
            return b"data: " + msgspec.json.encode(body) + b"\n\n"


def _response_failed(message: str, first: bytes, last: bytes) -> bytes:
    try:
        response = msgspec.json.decode(data_of(first), type=_Created).response
    except (ValueError, RecursionError):
        response = {"object": "response", "output": []}
    response |= {"status": "failed", "error": {"code": "server_error", "message": message}}
    number = re.findall(rb'"sequence_number":\s*(\d+)', last)
    following = bounds.count_of(number[-1], bounds.MOST_TOKENS) + 1 if number else 0
    body = {"type": "response.failed", "sequence_number": following, "response": response}
    return b"event: response.failed\ndata: " + msgspec.json.encode(body) + b"\n\n"
