"""What the gateway answers itself, at each of its doors: does it work, does a replica, and what was counted?"""

import asyncio
from collections.abc import Callable

from aiohttp import web

from dp_vllm_gateway import refusals, replies
from dp_vllm_gateway.decisions import Decisions
from dp_vllm_gateway.discovery.contact import Contact
from dp_vllm_gateway.exposition import CONTENT_TYPE, Exposition
from dp_vllm_gateway.keys import Keys
from dp_vllm_gateway.pool import Pool
from dp_vllm_gateway.queue import Queue
from dp_vllm_gateway.state import source_of, state_of
from dp_vllm_gateway.workers import sums
from dp_vllm_gateway.workers.team import Team


class OwnAnswers:
    """Sees what others own, and changes nothing."""

    def __init__(
        self,
        pool: Pool,
        keys: Keys,
        contact: Contact,
        exposition: Exposition,
        queue: Queue,
        decisions: Decisions,
        team: Team | None,
        *,
        ending: Callable[[], bool],
    ) -> None:
        self._pool = pool
        self._keys = keys
        self._contact = contact
        self._exposition = exposition
        self._queue = queue
        self._decisions = decisions
        self._team = team
        self._ending = ending
        self._loop = asyncio.get_running_loop()

    async def metrics(self) -> web.Response:
        """The gateway's own metrics and the engines'."""
        own = await self._team.metrics() if self._team else self._exposition.own(self._loop.time())
        return web.Response(body=own + self._exposition.engines(), headers={"Content-Type": CONTENT_TYPE})

    def health(self) -> web.Response:
        """Whether a replica is available."""
        if self._pool.available and not self._ending():
            return web.Response(status=200)
        refusal = refusals.shutting_down() if self._ending() else refusals.no_replica(self._pool)
        return replies.error(refusal.status, refusal.message, code=refusal.code, headers=refusal.headers)

    def ready(self) -> web.Response:
        """Whether the gateway itself works: it has keys if it needs them, and knows the replicas."""
        if self._keys.problem:
            return replies.error(503, self._keys.problem, code="no_keys")
        if self._ending():
            return replies.error(503, "the server is shutting down", code="shutting_down")
        if not self._pool.known:
            why = f": {self._contact.problem}" if self._contact.problem else ""
            return replies.error(503, f"the replicas are not known yet{why}", code="not_ready")
        if not self._pool.looked:
            unseen = ", ".join(self._pool.unseen())
            return replies.error(503, f"not every replica was looked at yet: {unseen}", code="not_ready")
        source = source_of(self._contact, self._loop.time())
        return web.Response(status=200) if source is None else replies.json_reply(source)

    def state(self) -> web.Response:
        """All that is known of the replicas now."""
        own = state_of(self._pool, self._contact, self._queue, self._loop.time())
        return replies.json_reply(sums.state(own, self._team.standings()) if self._team else own)

    async def decisions(self) -> web.Response:
        """Why the last requests went where they went, the oldest first."""
        told = sums.decisions(await self._team.decisions()) if self._team else self._decisions.told()
        return replies.json_reply({"decisions": told})
