"""Holds a client that asked to wait until a first replica is available (`x-dp-vllm-wait: SECONDS`).

A streaming client is sent comments that say how far the start is. That sends the head as well, with status 200, which
is why it is the client's choice.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final

from dp_vllm_gateway import refusals
from dp_vllm_gateway.facts import Facts
from dp_vllm_gateway.pool import Pool
from dp_vllm_gateway.queue import TOO_MANY
from dp_vllm_gateway.relay import Relay
from dp_vllm_gateway.replies import Refusal, unavailable
from dp_vllm_gateway.shares import may_take

COMMENT_SECONDS: Final = 5.0
"""How often a waiting stream hears something, if there is nothing new to tell."""

_STREAM_HEAD: Final = b"content-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\n"


def seconds_of(value: bytes | None) -> float:
    """How long a client is ready to wait; 0 if it did not say. Raises Refusal if that is no time."""
    if value is None:
        return 0.0
    try:
        seconds = float(value)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 86_400:
        raise Refusal(
            400, f"x-dp-vllm-wait: {value[:100].decode('latin-1')!r} is not a number of seconds from 0 to 86400"
        )
    return seconds


class Waiting:
    """Owns how many clients wait."""

    def __init__(self, pool: Pool, most: int) -> None:
        self._pool = pool
        self._most = most
        self._number = 0
        self._by_key: Counter[str] = Counter()

    async def for_replica(
        self, facts: Facts, relay: Relay, seconds: float, answer_lines: bytes, key: str, *, ending: Callable[[], bool]
    ) -> None:
        """Return once a replica is available or `seconds` have passed; a stream gets comments meanwhile.

        Raises Refusal if too many wait, of all or of this API key, and if the gateway is `ending`; it wakes the pool
        then.
        """
        with self._counted(key):
            await _for_replica(self._pool, facts, relay, seconds, answer_lines, ending)

    @contextlib.contextmanager
    def _counted(self, key: str) -> Iterator[None]:
        own = self._by_key[key] if key else 0
        if self._number >= self._most or (key and not may_take(1, own, self._number, self._most)):
            whose = f"{own} requests of this API key" if self._number < self._most else f"{self._most} requests"
            message = f"no replica is available, and {whose} wait for one already"
            raise unavailable(429, message, retry_after_seconds=5, code=TOO_MANY)
        self._number += 1
        self._by_key[key] += 1
        try:
            yield
        finally:
            self._number -= 1
            self._by_key[key] -= 1
            if not self._by_key[key]:
                del self._by_key[key]


async def _for_replica(
    pool: Pool, facts: Facts, relay: Relay, seconds: float, answer_lines: bytes, ending: Callable[[], bool]
) -> None:
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    said, said_at = b"", 0.0
    while not pool.candidates(facts) and (left := end - loop.time()) > 0:
        if ending():
            raise refusals.shutting_down()
        if facts.stream:
            if not relay.begun:
                relay.head(200, _STREAM_HEAD + answer_lines)
            comment = _comment(pool, facts)
            if comment != said or loop.time() - said_at >= COMMENT_SECONDS:
                relay.body(comment)
                said, said_at = comment, loop.time()
        try:
            async with asyncio.timeout(min(left, COMMENT_SECONDS)):
                await pool.changed()
        except TimeoutError:
            continue


def _comment(pool: Pool, facts: Facts) -> bytes:
    message = refusals.none_fits(pool, facts).message
    return b": " + message.replace("\n", " ").encode() + b"\n\n"
