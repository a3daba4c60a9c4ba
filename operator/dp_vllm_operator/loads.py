"""Asks replicas how much they have to do, once, when it matters which of them ends."""

import asyncio
from collections.abc import Iterable
from typing import Final

import aiohttp

from dp_vllm import names
from dp_vllm_operator.replica import Replica

LOAD_SECONDS: Final = 2.0

MOST_LOAD: Final = 1 << 32
"""Requests that one engine is believed to have."""


async def loads(replicas: Iterable[Replica]) -> dict[str, int | None]:
    """Requests in each replica, by its name; None for one that did not answer in time."""
    asked = [replica for replica in replicas if replica.address]
    timeout = aiohttp.ClientTimeout(total=LOAD_SECONDS)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        answers = await asyncio.gather(*(_load(session, replica.address) for replica in asked))
    return {replica.name: load for replica, load in zip(asked, answers, strict=True)}


async def _load(session: aiohttp.ClientSession, address: str) -> int | None:
    host = f"[{address}]" if ":" in address else address
    try:
        async with session.get(f"http://{host}:{names.ENGINE_PORT}/load") as response:
            said = await response.json()
            return min(max(int(said["server_load"]), 0), MOST_LOAD)
    except (aiohttp.ClientError, OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None
