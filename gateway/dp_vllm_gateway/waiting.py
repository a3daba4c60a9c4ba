"""Holds a client that asked to wait until a first replica is available (`x-dp-vllm-wait: SECONDS`).

A streaming client is sent comments that say how far the start is. That sends the head as well, with status 200, which
is why it is the client's choice.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from dp_vllm_gateway import refusals
from dp_vllm_gateway.facts import Facts
from dp_vllm_gateway.pool import Pool
from dp_vllm_gateway.relay import Relay
from dp_vllm_gateway.replies import Refusal

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


async def for_replica(
    pool: Pool, facts: Facts, relay: Relay, seconds: float, answer_lines: bytes, *, ending: Callable[[], bool]
) -> None:
    """Return once a replica is available or `seconds` have passed; a stream gets comments meanwhile.

    Raises Refusal if the gateway is `ending`; it wakes the pool then.
    """
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
