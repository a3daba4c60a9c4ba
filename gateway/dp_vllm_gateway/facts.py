"""What routing may know of a request: a few fields of its body, read without ever refusing what an engine would take.

A field of the wrong type is simply not known. Only a body that no JSON reader takes is an error.
"""

import json
import re
from typing import Any, Final, NamedTuple

import msgspec

BYTES_PER_TOKEN: Final = 4
"""English text under today's tokenizers, roughly."""

TOKENS_PER_DATA_URL: Final = 1000
"""An image or a sound that is sent within the prompt."""

_DATA_URL: Final = re.compile(rb'data:[\w/+.-]*;base64,[^"]*')


class Facts(NamedTuple):
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
    messages: msgspec.Raw = msgspec.Raw()
    prompt: msgspec.Raw = msgspec.Raw()
    input: msgspec.Raw = msgspec.Raw()
    tools: msgspec.Raw = msgspec.Raw()


class _Untyped(msgspec.Struct):
    model: Any = None
    stream: Any = None
    n: Any = None
    previous_response_id: Any = None
    messages: msgspec.Raw = msgspec.Raw()
    prompt: msgspec.Raw = msgspec.Raw()
    input: msgspec.Raw = msgspec.Raw()
    tools: msgspec.Raw = msgspec.Raw()


_BODY: Final = msgspec.json.Decoder(_Body)
_UNTYPED: Final = msgspec.json.Decoder(_Untyped)


def facts_of(body: bytes) -> Facts:
    """Read a JSON body.

    Raises BadJson if neither msgspec nor the standard library's more lenient reader takes it.
    """
    try:
        return _facts(_BODY.decode(body))
    except msgspec.ValidationError:
        pass
    except msgspec.DecodeError:
        return _lenient(body)
    try:
        return _facts(_untyped(_UNTYPED.decode(body)))
    except msgspec.DecodeError:
        return _lenient(body)


def _lenient(body: bytes) -> Facts:
    """The standard library takes what msgspec refuses and FastAPI accepts: NaN, lone surrogates, a BOM, UTF-16."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadJson(str(error)) from error
    if not isinstance(value, dict):
        return Facts()
    known = _Untyped(value.get("model"), value.get("stream"), value.get("n"), value.get("previous_response_id"))
    facts = _facts(_untyped(known))
    return facts._replace(tokens=len(body) // BYTES_PER_TOKEN)


def _untyped(body: _Untyped) -> _Body:
    return _Body(
        model=body.model if isinstance(body.model, str) else None,
        stream=body.stream if isinstance(body.stream, bool) else None,
        n=body.n if isinstance(body.n, int) else None,
        previous_response_id=body.previous_response_id if isinstance(body.previous_response_id, str) else None,
        messages=body.messages,
        prompt=body.prompt,
        input=body.input,
        tools=body.tools,
    )


def _facts(body: _Body) -> Facts:
    prompts, prompt_tokens = _prompts(body.prompt) if body.prompt else (1, 0)
    tokens = prompt_tokens + _tokens(body.messages) + _tokens(body.input) + _tokens(body.tools)
    n = body.n if body.n is not None and body.n > 0 else 1
    return Facts(body.model, bool(body.stream), n * prompts, tokens, body.previous_response_id)


def _tokens(raw: msgspec.Raw) -> int:
    text = bytes(raw)
    if b";base64," not in text:
        return len(text) // BYTES_PER_TOKEN
    urls = _DATA_URL.findall(text)
    return (len(text) - sum(map(len, urls))) // BYTES_PER_TOKEN + TOKENS_PER_DATA_URL * len(urls)


def _prompts(raw: msgspec.Raw) -> tuple[int, int]:
    """How many prompts a completion asks for, and their tokens: a text, token ids, or a list of either."""
    text = bytes(raw)
    if not text.startswith(b"["):
        return 1, len(text) // BYTES_PER_TOKEN
    try:
        prompts = msgspec.json.decode(text, type=list[str | int | list[int]])
    except msgspec.DecodeError:
        return 1, len(text) // BYTES_PER_TOKEN
    if prompts and isinstance(prompts[0], int):
        return 1, len(prompts)
    lengths = (len(p) if isinstance(p, list) else len(str(p)) // BYTES_PER_TOKEN for p in prompts)
    return max(1, len(prompts)), sum(lengths)
