"""Records what was asked, for `dp-vllm replay`: lengths, times and which prompts begin alike. Never a word of them.

One line a request, in the format of `dp_vllm.replay.trace`, in the order in which they end. A prompt's blocks are told
as small numbers in the order in which they were first seen, so not even a hash of a text is written. `n` and several
prompts in one request are not told.

Lines are gathered and written by a thread: a disk that stalls or is full costs lines, never the requests' time.
"""

import asyncio
import contextlib
import itertools
import logging
import os
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from dp_vllm import own_files
from dp_vllm.engine.routes import Dialect
from dp_vllm.errors import BadSettings
from dp_vllm.policy import Policy
from dp_vllm_gateway.call import Call
from dp_vllm_gateway.facts import facts_of
from dp_vllm_gateway.outgoing import Outgoing
from dp_vllm_gateway.routing.blocks import BLOCK_BYTES
from dp_vllm_gateway.routing.load import BYTES_PER_TOKEN

BLOCK_TOKENS: Final = BLOCK_BYTES // BYTES_PER_TOKEN
"""The length of a block in a recording."""

MOST_BLOCKS: Final = 200_000
"""Blocks whose numbers are kept: 50 million tokens, more than engines have in their caches; about 40 MB."""

MOST_TOKENS: Final = 1 << 24
"""Of one prompt: a line names each block of it, whatever an engine counts."""

FLUSH_SECONDS: Final = 0.1

MOST_WAITING: Final = 20_000
"""Lines that wait for the disk; about 5 MB."""

log = logging.getLogger(__name__)


class _Known(NamedTuple):
    """What is kept of a block of text, of which only the hash is known."""

    end: int
    """How many tokens a prompt has up to its end."""
    first: int
    """The number of the first block of tokens that ends within it."""


class Numbers:
    """Turns the gateway's blocks, which are of bytes, into numbered blocks of `BLOCK_TOKENS` tokens. Pure.

    Nobody says how many tokens a block of text has. But a prompt's tokens are counted, so its new text has those that
    its known beginning has not; and what two prompts share has the same tokens, and so the same numbers, in both.
    """

    def __init__(self, most: int = MOST_BLOCKS) -> None:
        self._most = most
        self._known: OrderedDict[int, _Known] = OrderedDict()
        """By hash, the one unused for longest first; never one that was used before another that follows it."""
        self._next = 0

    def of(self, blocks: Sequence[int], text_blocks: float, tokens: int) -> list[int]:
        """The numbers of a prompt's blocks, of which the last may be partly filled.

        `text_blocks` is the length of its text: the full blocks, whose hashes are given, and the rest.
        """
        numbers: list[int] = []
        end = 0
        for place, block in enumerate(blocks):
            known = self._known.get(block)
            if known is None:
                new_end = end + max(0, round((tokens - end) / (text_blocks - place)))
                known = self._known[block] = _Known(new_end, self._take(new_end // BLOCK_TOKENS - end // BLOCK_TOKENS))
            numbers += range(known.first, known.first + known.end // BLOCK_TOKENS - end // BLOCK_TOKENS)
            end = known.end
        self._keep(blocks)
        numbers = numbers[: tokens // BLOCK_TOKENS]
        alone = -(-tokens // BLOCK_TOKENS) - len(numbers)
        first = self._take(alone)
        return [*numbers, *range(first, first + alone)]

    def _take(self, count: int) -> int:
        first = self._next
        self._next += count
        return first

    def _keep(self, blocks: Sequence[int]) -> None:
        for block in reversed(blocks):
            self._known.move_to_end(block)
        while len(self._known) > self._most:
            self._known.popitem(last=False)


class _Line(msgspec.Struct):
    """As `dp_vllm.replay.trace` reads it, and what a block is."""

    timestamp: int
    input_length: int
    output_length: int
    hash_ids: list[int]
    block_tokens: int = BLOCK_TOKENS


class Recording:
    """Owns the lines that are not written yet. To be made within a running event loop.

    Raises BadSettings if the file cannot be written. A file that is there already is kept under another name: numbers
    and times begin anew.
    """

    def __init__(self, path: Path) -> None:
        self._file = _File(path)
        self._numbers = Numbers()
        self._loop = asyncio.get_running_loop()
        self._began_at = self._loop.time()
        self._lines: list[bytes] = []
        self._lost = 0
        self._timer: asyncio.TimerHandle | None = None
        self._writer = ThreadPoolExecutor(1, "recording")
        self._writing: Future[None] | None = None
        self._ending = False

    def record(self, call: Call, out: Outgoing) -> None:
        """Note a request that has ended, if an engine generated something for it."""
        if out.route.dialect is Dialect.OTHER or not out.facts.tokens or not call.answered_at:
            return
        if call.status not in (0, 200):  # 0: the client left in the middle
            return
        if len(self._lines) >= MOST_WAITING:
            self._lost += 1
            return
        self._lines.append(self._line(call, out))
        if self._ending:
            self._flush()
        elif self._timer is None:
            self._timer = self._loop.call_later(FLUSH_SECONDS, self._flush)

    def end(self) -> None:
        """Gather no longer: the process waits for what the thread was given, and for nothing else."""
        self._ending = True
        self._flush()

    def _line(self, call: Call, out: Outgoing) -> bytes:
        facts = out.facts if out.facts.blocks else facts_of(out.body, Policy.PREFIX)
        tokens = min(call.prompt_tokens or facts.tokens, MOST_TOKENS)
        text_blocks = facts.tokens / facts.block_tokens if facts.blocks else 0.0
        line = _Line(
            timestamp=round((call.began_at - self._began_at) * 1000),
            input_length=tokens,
            output_length=call.completion_tokens or call.chunks,
            hash_ids=self._numbers.of(facts.blocks, text_blocks, tokens),
        )
        return msgspec.json.encode(line) + b"\n"

    def _flush(self) -> None:
        if self._writing is not None and not self._writing.done() and not self._ending:
            self._timer = self._loop.call_later(FLUSH_SECONDS, self._flush)
            return
        self._timer = None
        if not self._lines:
            return
        lines, lost, self._lines, self._lost = self._lines, self._lost, [], 0
        self._writing = self._writer.submit(self._file.write, lines, lost)


class _File:
    """The file, which belongs to the writing thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lost = 0
        self._size = 0
        try:
            if path.is_file():
                path.rename(_free_name(path))
            self._fd = own_files.appended(path)
        except OSError as error:
            raise BadSettings(f"--record {path}: cannot be written: {error.strerror or error}") from error

    def write(self, lines: list[bytes], lost: int) -> None:
        """Add lines, all or none; `lost` are those that were not even kept to be written."""
        data = b"".join(lines)
        failing = self._lost > 0
        self._lost += lost
        try:
            written = 0
            while written < len(data):
                written += os.write(self._fd, data[written:])
        except OSError as error:
            if not failing:
                log.warning("--record %s: cannot be written: %s", self._path, error.strerror)
            self._lost += len(lines)
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._size)
            return
        self._size += len(data)
        if self._lost:
            log.warning("--record %s: %d requests are missing", self._path, self._lost)
            self._lost = 0


def _free_name(path: Path) -> Path:
    names = (path.with_name(f"{path.name}.{number}") for number in itertools.count(1))
    return next(name for name in names if not name.exists())
