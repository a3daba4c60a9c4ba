"""What routing may know of a request: a few fields of its body, read without ever refusing what an engine would take.

A field of the wrong type is simply not known. Only a body that no JSON reader takes is an error.
"""

import json
import re
from typing import Any, Final

import msgspec

BYTES_PER_TOKEN: Final = 4
"""English text under today's tokenizers, roughly."""

TOKENS_PER_DATA_URL: Final = 1000
"""An image or a sound that is sent within the prompt."""

_DATA_URL: Final = re.compile(rb'data:[\w/+.-]*;base64,[^"]*')


class Facts(msgspec.Struct, frozen=True, gc=False):
    """What one request is, as far as choosing a replica for it goes."""

    model: str | None = None
    stream: bool = False
    sequences: int = 1
    """How many sequences the engine will run at once: `n` times the prompts."""
    tokens: int = 0
    """The prompt's length, estimated."""
    previous_response: str | None = None
    """The id of a response that only the replica which made it knows."""


class BadJson(ValueError):
    """The body is no JSON; the message says where it stops being one."""


class _Body(msgspec.Struct):
    model: str | None = None
    stream: bool | None = None
    n: int | None = None
    previous_response_id: str | None = None
    prompt: msgspec.Raw = msgspec.Raw()


class _Untyped(msgspec.Struct):
    model: Any = None
    stream: Any = None
    n: Any = None
    previous_response_id: Any = None
    prompt: msgspec.Raw = msgspec.Raw()

    def typed(self) -> _Body:
        """What has the right type; the rest is not known."""
        return _Body(
            self.model if isinstance(self.model, str) else None,
            self.stream if isinstance(self.stream, bool) else None,
            self.n if isinstance(self.n, int) else None,
            self.previous_response_id if isinstance(self.previous_response_id, str) else None,
            self.prompt,
        )


_UNREADABLE: Final = (ValueError, RecursionError)
"""What reading raises. msgspec's own errors are ValueErrors, and so is that of bad UTF-8, which is none of its own."""

_BODY: Final = msgspec.json.Decoder(_Body)
_UNTYPED: Final = msgspec.json.Decoder(_Untyped)


def facts_of(body: bytes) -> Facts:
    """Read a JSON body.

    Raises BadJson if neither msgspec nor the standard library's more lenient reader takes it.
    """
    fields = _fields(body)
    n = fields.n if fields.n is not None and fields.n > 0 else 1
    if fields.prompt and bytes(memoryview(fields.prompt)[:1]) == b"[":
        prompts, tokens = _prompts(bytes(fields.prompt))
        return Facts(fields.model, bool(fields.stream), n * prompts, tokens, fields.previous_response_id)
    return Facts(fields.model, bool(fields.stream), n, _tokens(body), fields.previous_response_id)


def _fields(body: bytes) -> _Body:
    try:
        return _BODY.decode(body)
    except msgspec.ValidationError:
        pass
    except _UNREADABLE:
        return _lenient(body).typed()
    try:
        return _UNTYPED.decode(body).typed()
    except _UNREADABLE:
        return _lenient(body).typed()


def _lenient(body: bytes) -> _Untyped:
    """The standard library takes what msgspec refuses and FastAPI accepts: NaN, lone surrogates, a BOM, UTF-16."""
    try:
        value = json.loads(body)
    except _UNREADABLE as error:
        raise BadJson(str(error)) from error
    if not isinstance(value, dict):
        return _Untyped()
    return _Untyped(value.get("model"), value.get("stream"), value.get("n"), value.get("previous_response_id"))


def _tokens(body: bytes) -> int:
    """The whole body counts as text: what is not prompt in it is short."""
    if b";base64," not in body:
        return len(body) // BYTES_PER_TOKEN
    urls = _DATA_URL.findall(body)
    return (len(body) - sum(map(len, urls))) // BYTES_PER_TOKEN + TOKENS_PER_DATA_URL * len(urls)


def _prompts(listed: bytes) -> tuple[int, int]:
    """How many prompts a list asks for, and their tokens in all: token ids, or a list of texts or of token ids."""
    try:
        prompts = msgspec.json.decode(listed, type=list[str | int | list[int]])
    except _UNREADABLE:
        return 1, len(listed) // BYTES_PER_TOKEN
    if prompts and isinstance(prompts[0], int):
        return 1, len(prompts)
    lengths = (len(p) if isinstance(p, list) else len(str(p)) // BYTES_PER_TOKEN for p in prompts)
    return max(1, len(prompts)), sum(lengths)
