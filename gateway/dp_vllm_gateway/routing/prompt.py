"""The prompt within a request's body, as far as its beginning can be compared with others'.

It is the JSON text of the fields that make the prompt, in the order in which a chat template uses them; whoever sends a
conversation's next turn writes its beginning again as before. What else changes the tokens is the seed: under another
model or cache salt nothing is shared.
"""

from array import array
from typing import Any, Final

import msgspec
import xxhash

from dp_vllm_gateway.routing.files import PIECE_BYTES, files_of
from dp_vllm_gateway.routing.load import BYTES_PER_TOKEN

TOKENS_PER_FILE: Final = 1000
"""An image or a sound that is sent within the prompt."""

LEAST_BESIDE: Final = 1024
"""Bytes beside the prompt that may be its parameters, whatever the prompt's length."""

_UNREADABLE: Final = (ValueError, TypeError, OverflowError, RecursionError)


class Prompt(msgspec.Struct, frozen=True, gc=False):
    """What an engine is to read."""

    text: bytes
    seed: bytes
    tokens: int
    """Estimated: `BYTES_PER_TOKEN`, or counted if the prompt is a list of token ids."""
    count: int = 1
    """How many prompts there are in it."""
    beside: int = 0
    """Tokens of the rest of the body, if that is longer than the prompt: an engine may read that instead."""


class PromptFields(msgspec.Struct):
    """The parts of a body that tell the prompt, unread."""

    tools: msgspec.Raw = msgspec.Raw()
    system: msgspec.Raw = msgspec.Raw()
    """Of `/v1/messages`."""
    instructions: msgspec.Raw = msgspec.Raw()
    """Of `/v1/responses`."""
    messages: msgspec.Raw = msgspec.Raw()
    prompt: msgspec.Raw = msgspec.Raw()
    input: msgspec.Raw = msgspec.Raw()
    cache_salt: msgspec.Raw = msgspec.Raw()
    chat_template_kwargs: msgspec.Raw = msgspec.Raw()


def prompt_of(fields: PromptFields, model: str | None, body: bytes) -> Prompt:
    """The prompt of a body that was read; all of the body if none of the fields is there."""
    seed = b"\0".join((repr(model).encode(), fields.cache_salt, fields.chat_template_kwargs))
    listed = bytes(fields.prompt)
    if listed.startswith(b"["):
        return _listed(listed, seed, _tokens_beside(listed, body))
    read = b"".join((fields.tools, fields.system, fields.instructions, fields.messages, fields.input, listed))
    if not read:
        return Prompt(b"", seed, tokens_of(body))
    text = _without_files(read)
    return Prompt(text, seed, len(text) // BYTES_PER_TOKEN, beside=_tokens_beside(read, body))


def _tokens_beside(read: bytes, body: bytes) -> int:
    """Tokens of the body without what was read of it, if they are most: a small `input` beside long `documents`."""
    if len(body) <= 2 * len(read) + LEAST_BESIDE:
        return 0
    return max(0, tokens_of(body) - tokens_of(read))


def tokens_of(body: bytes) -> int:
    """Of a body all of which counts as text: what is not prompt in it is short."""
    return len(_without_files(body)) // BYTES_PER_TOKEN


def _without_files(text: bytes) -> bytes:
    """In a file's place stands its digest, as often as makes for its tokens."""
    if len(text) < PIECE_BYTES:
        return text
    pieces: list[bytes] = []
    start = 0
    for begin, end in files_of(text):
        pieces += (text[start:begin], _digest(memoryview(text)[begin:end]))
        start = end
    return b"".join((*pieces, text[start:])) if pieces else text


def _digest(file: memoryview) -> bytes:
    digest = xxhash.xxh3_128_digest(file)
    return digest * (TOKENS_PER_FILE * BYTES_PER_TOKEN // len(digest))


def _listed(listed: bytes, seed: bytes, beside: int) -> Prompt:
    """A prompt of token ids, or a list of prompts, each a text or token ids.

    Ids are compared as such, however they are written: a block of theirs is as many as one of text is taken to have.
    """
    try:
        prompts: list[Any] = msgspec.json.decode(listed, type=list[str | int | list[int]])
        if len(prompts) == 1 and isinstance(prompts[0], list):
            prompts = prompts[0]
        if prompts and isinstance(prompts[0], int):
            return Prompt(array("I", prompts).tobytes(), seed, len(prompts), beside=beside)
    except _UNREADABLE:
        return Prompt(listed, seed, len(listed) // BYTES_PER_TOKEN, beside=beside)
    lengths = (len(p) if isinstance(p, list) else -(-len(str(p)) // BYTES_PER_TOKEN) for p in prompts)
    return Prompt(listed, seed, sum(lengths), max(1, len(prompts)), beside)
