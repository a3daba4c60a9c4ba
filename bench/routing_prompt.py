"""Prompts whose text has exactly the blocks of a trace, in the simulated engine's tokens.

A token is a word of three letters with the space before it (`dp_vllm.sim.tokens`). A block begins with its number,
written in two such words, and goes on with words from a fixed random text: blocks that differ in their first words only
would be too easy for some gateways and look the same to those that read samples.
"""

import itertools
import random
import string
from typing import Final

from bench.load import API_KEY
from dp_vllm.replay.trace import Request

MODEL: Final = "bench/model"

WORD: Final = 4
"""Bytes of a token."""

_WORDS: Final = tuple(
    f" {''.join(letters)}".encode() for letters in itertools.product(string.ascii_lowercase, repeat=3)
)
_TEXT_WORDS: Final = 1 << 17
_STRIDE: Final = 0x9E3779B1
"""Knuth's multiplicative hashing: neighbours fall on far places."""


class Prompts:
    """Requests of one trace as the bytes of HTTP. Numbers of blocks may be any; they are counted as they come."""

    def __init__(self, block_tokens: int) -> None:
        self._block_tokens = block_tokens
        self._text = b"".join(random.Random(0).choices(_WORDS, k=_TEXT_WORDS + block_tokens))
        self._counter = itertools.count()
        self._numbers: dict[int, int] = {}

    def text(self, request: Request) -> bytes:
        """Its prompt. A last part that has no block in the trace is like no other."""
        missing = -(-request.prompt_tokens // self._block_tokens) - len(request.blocks)
        numbers = [*map(self._number, request.blocks), *itertools.islice(self._counter, missing)]
        return b"".join(map(self._block, numbers))[: request.prompt_tokens * WORD]

    def chat(self, request: Request) -> bytes:
        """A streamed chat with one message of the user; the engine's template adds 15 tokens around it."""
        options = b'"stream":true,"max_tokens":%d' % max(1, request.completion_tokens)
        content = b'{"model":"%b",%b,"messages":[{"role":"user","content":"%b"}]}' % (
            MODEL.encode(),
            options,
            self.text(request),
        )
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:8000\r\nAccept: */*\r\n"
        head += f"Authorization: Bearer {API_KEY}\r\nContent-Type: application/json\r\n"
        return b"%bContent-Length: %d\r\n\r\n%b" % (head.encode(), len(content), content)

    def _number(self, block: int) -> int:
        number = self._numbers.get(block)
        if number is None:
            number = self._numbers[block] = next(self._counter)
        return number

    def _block(self, number: int) -> bytes:
        high, low = divmod(number, len(_WORDS))
        start = (number * _STRIDE % _TEXT_WORDS) * WORD
        return _WORDS[high] + _WORDS[low] + self._text[start : start + (self._block_tokens - 2) * WORD]
