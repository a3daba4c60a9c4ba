"""Traces of requests, without their text: when each came, how long it was, and which blocks its prompt is made of.

The format is that of Mooncake's published traces (https://github.com/kvcache-ai/Mooncake, FAST25-release): one JSON
object a line,

    {"timestamp": 27482, "input_length": 6955, "output_length": 52, "hash_ids": [46, 47, 48, 49, ...]}

with the time in milliseconds, lengths in tokens, and a number for each block of the prompt, of which the last may be
partly filled. Prompts whose first numbers are the same begin with the same text. The file does not say how long a block
is; in Mooncake's it is 512 tokens. Other fields are ignored. A file that ends in `.gz` is unpacked.
"""

from __future__ import annotations

import gzip
import zlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Final

import msgspec

from dp_vllm.errors import UserError

BLOCK_TOKENS: Final = 512
"""The length of a block in Mooncake's traces."""


@dataclass(frozen=True, slots=True)
class Request:
    """One line of a trace."""

    at_seconds: float
    """After the first request of the trace."""
    prompt_tokens: int
    completion_tokens: int
    blocks: tuple[int, ...]
    """A number for each block of the prompt; prompts share text as far as these are the same from the first one on."""


class _Line(msgspec.Struct):
    timestamp: Annotated[float, msgspec.Meta(ge=0)]
    input_length: Annotated[int, msgspec.Meta(ge=1)]
    output_length: Annotated[int, msgspec.Meta(ge=0)]
    hash_ids: list[int]


def read(path: Path, *, block_tokens: int = BLOCK_TOKENS) -> list[Request]:
    """All requests in the order of their times. Raises UserError, which names the line and the field."""
    decoder = msgspec.json.Decoder(_Line)
    requests = []
    for number, text in enumerate(_unpacked(path).splitlines(), 1):
        if text.strip():
            try:
                requests.append(_request(decoder.decode(text), block_tokens))
            except (msgspec.DecodeError, ValueError) as error:
                raise UserError(f"{path}, line {number}: {error}") from error
    if not requests:
        raise UserError(f"{path}: a trace has at least one request, this file has none")
    return from_zero(sorted(requests, key=lambda request: request.at_seconds))


def lines(requests: Iterable[Request]) -> Iterator[bytes]:
    """The trace as `read` reads it, each line with its end."""
    for request in requests:
        milliseconds, tokens = round(request.at_seconds * 1000), request.prompt_tokens
        line = _Line(milliseconds, tokens, request.completion_tokens, list(request.blocks))
        yield msgspec.json.encode(line) + b"\n"


def from_zero(requests: Sequence[Request]) -> list[Request]:
    """The same requests, the first of them at once: for a part of a trace."""
    first = requests[0].at_seconds if requests else 0.0
    return [replace(request, at_seconds=request.at_seconds - first) for request in requests]


def ideal_hits(requests: Iterable[Request], block_tokens: int, cache_blocks: int) -> list[int]:
    """How many tokens of each prompt one cache of so many blocks for all engines would have had.

    A bound to hold a router against, not a promise: each prompt is in the cache at once, whole, and answers take no
    room. As in vLLM only full blocks are kept, a prompt's last token is always computed, and the block unused for
    longest goes first, of one prompt the last before the first.
    """
    numbers: dict[tuple[int, int], int] = {}
    kept: OrderedDict[int, None] = OrderedDict()
    hits = []
    for request in requests:
        prefixes = _prefixes(request, block_tokens, numbers)
        usable = prefixes[: (request.prompt_tokens - 1) // block_tokens]
        found = next((place for place, prefix in enumerate(usable) if prefix not in kept), len(usable))
        hits.append(found * block_tokens)
        for prefix in reversed(prefixes):
            kept[prefix] = None
            kept.move_to_end(prefix)
        while len(kept) > cache_blocks:
            kept.popitem(last=False)
    return hits


def ideal_hit_rate(requests: Sequence[Request], block_tokens: int, cache_blocks: int) -> float:
    """The share of all prompt tokens, 0 to 1, that one cache would have had: see `ideal_hits`."""
    asked = sum(request.prompt_tokens for request in requests)
    return sum(ideal_hits(requests, block_tokens, cache_blocks)) / asked if asked else 0.0


def _prefixes(request: Request, block_tokens: int, numbers: dict[tuple[int, int], int]) -> list[int]:
    """A number for each full block together with everything before it: a block is found only behind the same ones."""
    prefixes, parent = [], -1
    for block in request.blocks[: request.prompt_tokens // block_tokens]:
        parent = numbers.setdefault((parent, block), len(numbers))
        prefixes.append(parent)
    return prefixes


def _request(line: _Line, block_tokens: int) -> Request:
    """Raises ValueError where the number of blocks is none that the length allows, with the last part or without."""
    full, rest = divmod(line.input_length, block_tokens)
    if len(line.hash_ids) not in (full, full + bool(rest)):
        raise ValueError(
            f"hash_ids: {len(line.hash_ids)} blocks, but input_length {line.input_length} makes {full + bool(rest)}"
            f" of {block_tokens} tokens"
        )
    return Request(line.timestamp / 1000, line.input_length, line.output_length, tuple(line.hash_ids))


def _unpacked(path: Path) -> bytes:
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if path.suffix == ".gz" else data
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error
