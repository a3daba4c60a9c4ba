"""What the routing benchmark replays: a published trace, and three kinds of traffic that are made up by a seed.

    python bench/workloads.py chat > chat.jsonl      one of them as a trace

Made-up traffic is a pure function of its seed. Blocks are 16 tokens long in it, as vLLM's are by default.
"""

import itertools
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dp_vllm.replay import trace
from dp_vllm.replay.trace import Request

MOONCAKE: Final = Path(__file__).resolve().parent / "traces" / "mooncake_conversation_3000-4000.jsonl.gz"

BLOCK_TOKENS: Final = 16
"""The length of a block in made-up traffic."""


@dataclass(frozen=True, slots=True)
class Workload:
    """Requests, and what they are replayed against."""

    title: str
    requests: list[Request]
    block_tokens: int
    cache_blocks: int
    """KV cache of each engine."""
    speed: float
    """How many times faster than it came it is replayed; two cores have to keep up with its streams."""


def mooncake() -> Workload:
    """A chat service's long prompts, few of which share anything."""
    return of_file(MOONCAKE, "Mooncake conversation, requests 3000-4000")


def of_file(path: Path, title: str = "", block_tokens: int = trace.BLOCK_TOKENS) -> Workload:
    """Any trace."""
    return Workload(title or path.name, trace.read(path, block_tokens=block_tokens), block_tokens, 6000, 10.0)


def chat() -> Workload:
    """Conversations that come back with everything that was said before."""
    return Workload("multi-turn chat", conversations(random.Random(1), 2000), BLOCK_TOKENS, 27_000, 8.0)


def boring() -> Workload:
    """Nothing is shared, so that nothing is to be gained but by balance."""
    return Workload("nothing shared", strangers(random.Random(2), 2000), BLOCK_TOKENS, 27_000, 10.0)


def long_answers() -> Workload:
    """Short prompts behind one system prompt, long answers: engines are busy with decoding."""
    return Workload("long answers", one_system_prompt(random.Random(3), 600), BLOCK_TOKENS, 27_000, 3.0)


WORKLOADS: Final[dict[str, Callable[[], Workload]]] = {
    "mooncake": mooncake,
    "chat": chat,
    "boring": boring,
    "answers": long_answers,
}


class _Text:
    """A text that grows at its end: blocks that are full keep their numbers."""

    def __init__(self, numbers: Iterator[int], beginning: tuple[int, ...] = ()) -> None:
        self._numbers = numbers
        self._full = list(beginning)

    def blocks(self, tokens: int) -> tuple[int, ...]:
        """The numbers of its first so many tokens."""
        full, rest = divmod(tokens, BLOCK_TOKENS)
        while len(self._full) < full:
            self._full.append(next(self._numbers))
        return (*self._full[:full], *([next(self._numbers)] if rest else []))


def conversations(rng: random.Random, count: int) -> list[Request]:
    """`count` turns, about 6 a second, of conversations behind one system prompt of 1,024 tokens.

    A conversation begins with a question of some 3,000 tokens, as with a document pasted into it; each further turn
    adds the answer and a short question, a while after the answer. Some have begun long before the first turn here.
    """
    numbers = itertools.count()
    system = _Text(numbers).blocks(1024)
    begun_before_seconds, turns, at = 300.0, 6.0, 0.0
    found: list[Request] = []
    while at < begun_before_seconds + count / 6:
        at += rng.expovariate(6 / turns)
        found += _conversation(rng, at - begun_before_seconds, _Text(numbers, system), turns)
    later = sorted((turn for turn in found if turn.at_seconds >= 0), key=lambda turn: turn.at_seconds)
    return trace.from_zero(later[:count])


def _conversation(rng: random.Random, at: float, text: _Text, turns: float) -> Iterator[Request]:
    tokens = 1024 + _length(rng, 3000, 16_000, 0.8)
    while tokens < 30_000:
        answer = _length(rng, 150, 800, 0.7)
        yield Request(at, tokens, answer, text.blocks(tokens))
        if rng.random() < 1 / turns:
            return
        at += answer * 0.03 + rng.expovariate(1 / 20)
        tokens += answer + _length(rng, 100, 4000, 0.9)


def strangers(rng: random.Random, count: int) -> list[Request]:
    """10 requests a second of which none shares a block: seven of ten have about 250 tokens, the others 10,000."""
    numbers, at = itertools.count(), 0.0
    found = []
    for _ in range(count):
        at += rng.expovariate(10)
        long = rng.random() < 0.3
        tokens = _length(rng, 10_000, 30_000, 0.6) if long else _length(rng, 250, 4000, 0.8)
        found.append(Request(at, tokens, _length(rng, 80, 400, 0.7), _Text(numbers).blocks(tokens)))
    return trace.from_zero(found)


def one_system_prompt(rng: random.Random, count: int) -> list[Request]:
    """5 requests a second with 20 to 200 tokens behind 800 that all share, and answers of 400 to 1,200."""
    numbers, at = itertools.count(), 0.0
    system = _Text(numbers).blocks(800)
    found = []
    for _ in range(count):
        at += rng.expovariate(5)
        tokens = 800 + rng.randint(20, 200)
        found.append(Request(at, tokens, rng.randint(400, 1200), _Text(numbers, system).blocks(tokens)))
    return trace.from_zero(found)


def _length(rng: random.Random, median: float, most: int, spread: float) -> int:
    """Tokens of a text: their logarithm is normally distributed, as people's texts are."""
    return max(1, min(most, round(median * rng.lognormvariate(0, spread))))


if __name__ == "__main__":
    sys.stdout.buffer.writelines(trace.lines(WORKLOADS[sys.argv[1]]().requests))
