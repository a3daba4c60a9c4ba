"""Looks at every endpoint again and again: is it alive, which models does it serve, what do its metrics say?"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from dp_vllm.endpoints import State
from dp_vllm_gateway.fetch import fetch
from dp_vllm_gateway.listed import listed
from dp_vllm_gateway.member import Member, Seen
from dp_vllm_gateway.pool import Pool
from dp_vllm_gateway.upstream import UpstreamError

EAGER_SECONDS: Final = 0.5
"""Between two looks at an endpoint that is not healthy: it is waited for."""

TICK_SECONDS: Final = 0.25


class Probes:
    """Owns the time of each endpoint's next look; there is one look at a time."""

    def __init__(
        self,
        pool: Pool,
        *,
        every_seconds: float,
        lines: bytes,
        bring_up_to_date: Callable[[Member], Awaitable[bool]],
    ) -> None:
        """`bring_up_to_date` is awaited for each endpoint before it is called healthy; it is not, if that fails."""
        self._pool = pool
        self._every = every_seconds
        self._lines = lines
        self._bring_up_to_date = bring_up_to_date
        self._next: dict[tuple[str, str], float] = {}
        self._looking: set[tuple[str, str]] = set()

    async def run(self) -> None:
        """Look until cancelled."""
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as group:
            while True:
                for member in self._due(loop.time()):
                    group.create_task(self._look(member))
                try:
                    async with asyncio.timeout(TICK_SECONDS):
                        await self._pool.changed()
                except TimeoutError:
                    continue

    def _due(self, now: float) -> list[Member]:
        members = {
            (member.name, member.endpoint.incarnation): member
            for member in self._pool.members()
            if member.endpoint.state in (State.READY, State.UNREADY, State.DRAINING)
        }
        self._next = {key: at for key, at in self._next.items() if key in members}
        due = [m for key, m in members.items() if self._next.get(key, 0.0) <= now and key not in self._looking]
        for member in due:
            every = self._every if member.healthy else min(EAGER_SECONDS, self._every)
            self._next[member.name, member.endpoint.incarnation] = now + every
        return due

    async def _look(self, member: Member) -> None:
        key = (member.name, member.endpoint.incarnation)
        self._looking.add(key)
        try:
            seen = await self._see(member)
        finally:
            self._looking.discard(key)
        self._pool.observe(*key, seen)

    async def _see(self, member: Member) -> Seen:
        try:
            health = await fetch(member, "GET", "/health", seconds=self._every, lines=self._lines)
            if health.status != 200:
                return Seen(healthy=False, certain=health.status == 503)
        except TimeoutError:
            return Seen(healthy=False, certain=False)
        except OSError:
            return Seen(healthy=False, certain=True)
        except UpstreamError:
            return Seen(healthy=False, certain=False)
        scrape = await self._scrape(member)
        if not member.healthy and not await self._bring_up_to_date(member):
            return Seen(healthy=False, certain=False)
        # Adapters come and go. Where one model is served all replicas get the same, and the engine judges their names.
        asked = not member.models or self._pool.several_models
        found = await listed(member, seconds=self._every, lines=self._lines) if asked else None
        return Seen(
            healthy=True,
            certain=True,
            models=member.models or (found.models if found else None),
            adapters=found.adapters if found else None,
            scrape=scrape,
        )

    async def _scrape(self, member: Member) -> bytes | None:
        try:
            answer = await fetch(member, "GET", "/metrics", seconds=self._every, lines=self._lines)
        except (OSError, UpstreamError):
            return None
        return answer.body if answer.status == 200 else b""
