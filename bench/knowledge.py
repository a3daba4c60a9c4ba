"""What routing would gain if gateways knew the engines' prefix caches exactly, instead of what they sent where.

    python bench/knowledge.py                                    the trace in bench/traces, a minute or two
    python bench/knowledge.py TRACE --windows 6 --load 1,1.35 --kv-blocks 1000,2000,6000
    python bench/knowledge.py customers --load 1,2 --kv-blocks 400,800

In counted time (`dp_vllm.replay`), so a busy machine changes nothing. `knows` is one of

    sent x1   each gateway knows the prompts that it has sent itself, as many as fit into the engine
    sent x2   twice as many; `routing.remembered.KEPT` says how many it is outside of this program
    told      each gateway knows what all of them have sent
    exact     each gateway sees the engine's cache itself at the moment of the decision, and the prompts that the engine
              is to read: better than any event could tell it

What other gateways have in flight none of them knows. Hits are a share of what one cache for all would have had;
`believed` is what gateways took to be cached, as a share of what was. First tokens are in seconds. All figures are
means over windows of 1,000 requests.
"""

import argparse
import asyncio
import itertools
import math
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Final

from dp_vllm.policy import Policy
from dp_vllm.replay import fleet
from dp_vllm.replay.fleet import Arrival, Fleet, Sizes
from dp_vllm.replay.report import row
from dp_vllm.replay.trace import BLOCK_TOKENS, Request, from_zero, ideal_hit_rate, read
from dp_vllm.sim.engine import Engine, Pace
from dp_vllm_gateway.routing.remembered import KEPT, Remembered
from dp_vllm_gateway.routing.router import Router

TRACE: Final = Path(__file__).parent / "traces/mooncake_conversation_3000-4000.jsonl.gz"
WINDOW: Final = 1000
Kind = tuple[int, str, float]
"""How many gateways, what each of them knows, and of how many times as much as fits."""

KINDS: Final[Sequence[Kind]] = (
    *((1, "sent", times) for times in (0.5, 1.0, KEPT, 2.0, 4.0)),
    (1, "exact", 1.0),
    *((gateways, knows, KEPT) for gateways in (2, 4) for knows in ("sent", "told", "exact")),
)


class Exact(Remembered):
    """The cache itself, and the prompts that the engine has not read yet."""

    def __init__(self, engine: Engine) -> None:
        super().__init__()
        self._engine = engine

    def depth(self, blocks: Sequence[int]) -> int:
        engine = self._engine
        unread = (it.hashes for it in (*engine.waiting, *engine.running) if it.computed < len(it.prompt))
        return max(len(engine.cache.find(blocks)), *(_alike(hashes, blocks) for hashes in unread), 0)

    def add(self, blocks: Sequence[int]) -> None:
        """The engine itself remembers."""


def _alike(some: Sequence[int], others: Sequence[int]) -> int:
    """How many are the same from the first one on."""
    pairs = enumerate(zip(some, others, strict=False))
    return next((n for n, (one, other) in pairs if one != other), min(len(some), len(others)))


class Knowing(Fleet):
    """Engines behind several gateways, of which chance names one for each request."""

    def __init__(self, sizes: Sizes, gateways: int, knows: str, times: float) -> None:
        super().__init__(sizes, Policy.PREFIX, ahead_seconds=math.inf)  # nothing is kept back, whoever knows what
        self._rng = random.Random(0)
        more = (asyncio.run(fleet._pool(sizes, clock=lambda: self._now)) for _ in range(gateways - 1))
        self._pools = [self._pool, *more]
        self._routers = [Router(Policy.PREFIX, rng=random.Random(number)) for number in range(gateways)]
        for pool in self._pools:
            for member, engine, first in zip(pool.members(), self._engines, self._members, strict=True):
                member.remembered.capacity = round(sizes.kv_blocks * times / KEPT)
                if knows == "exact":
                    member.remembered = Exact(engine)
                elif knows == "told":
                    member.remembered = first.remembered

    def _send(self, arrival: Arrival, seed: int) -> None:
        gateway = self._rng.randrange(len(self._pools))
        self._pool, self._router = self._pools[gateway], self._routers[gateway]
        self._members = self._pool.members()
        super()._send(arrival, seed)


def figures(windows: Sequence[list[Request]], sizes: Sizes, load: float, kind: Kind) -> Iterator[float]:
    """Hits as a share of the ideal, what was believed as a share of what was, first token mean and p99."""
    rows, believed, cached = [], 0, 0
    for requests in windows:
        answers = list(Knowing(sizes, *kind).run(fleet.arrivals(requests, sizes, speed=load)))
        rows.append(row(answers, ideal_hit_rate(requests, BLOCK_TOKENS, sizes.kv_blocks * sizes.replicas)))
        believed += sum(answer.believed_tokens for answer in answers)
        cached += sum(answer.cached_tokens for answer in answers)
    yield fmean(one.of_ideal or 0.0 for one in rows)
    yield believed / cached
    yield fmean(one.first_mean_seconds for one in rows)
    yield fmean(one.first_p99_seconds for one in rows)


def customers(rng: random.Random) -> list[Request]:
    """10 questions a second of 1,024 tokens behind the 6,144 of one of 75 customers, more than a cache has room for."""
    blocks, at, found = itertools.count(), 0.0, []
    contexts = [tuple(itertools.islice(blocks, 12)) for _ in range(75)]
    for _ in range(WINDOW):
        at += rng.expovariate(10)
        found.append(Request(at, 14 * BLOCK_TOKENS, 100, (*rng.choice(contexts), next(blocks), next(blocks))))
    return found


def numbers(words: str) -> list[float]:
    """`1,2.5`"""
    return [float(word) for word in words.split(",")]


def main() -> None:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument(
        "trace", nargs="?", default=TRACE, help="a file, or `customers`: made up, as routers are praised by"
    )
    made.add_argument("--windows", type=int, default=1, help="so many thousands of requests, evenly from the trace")
    made.add_argument("--load", type=numbers, default=[1.0, 1.35], help="how many times as fast as requests came")
    made.add_argument("--kv-blocks", type=numbers, default=[1000, 2000, 6000], help=f"of {BLOCK_TOKENS} tokens each")
    given = made.parse_args()
    requests = customers(random.Random(1)) if given.trace == "customers" else read(Path(given.trace))
    stride = max(WINDOW, len(requests) // given.windows)
    windows = [from_zero(requests[start : start + WINDOW]) for start in range(0, len(requests), stride)][
        : given.windows
    ]
    print("load  blocks  gateways  knows       hits  believed  first token     p99")
    for load, blocks, kind in itertools.product(given.load, given.kv_blocks, KINDS):
        sizes = Sizes(4, BLOCK_TOKENS, int(blocks), Pace(15_000.0, 0.02, 0.0005))
        hits, believed, first, p99 = figures(windows, sizes, load, kind)
        gateways, knows, times = kind
        said = f"{knows} x{times:g}" if knows == "sent" else knows
        print(
            f"{load:4}  {blocks:6,.0f}  {gateways:8}  {said:9}  {hits:6.3f}  {believed:8.2f}  {first:11.2f}  {p99:6.2f}"
        )


if __name__ == "__main__":
    main()
