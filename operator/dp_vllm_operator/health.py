"""Whether this operator works: what the kubelet asks at /healthz and /readyz, and Prometheus at /metrics.

Not alive means that a restart helps: somebody at work is stuck, or watches have stopped to tell of changes. An API
server that does not answer is no such reason, a restart would only lose what is known: it makes the operator unready.
One that waits for its Lease is alive and ready.

`Health` is told what happens by those to whom it happens. It knows nothing of models.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Final

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.aiohttp import make_aiohttp_handler

from dp_vllm.errors import UserError
from dp_vllm_operator.announcements import Announcements
from dp_vllm_operator.queue import Keys

STUCK_SECONDS: Final = 120.0
"""Twice what a reconcile may take."""

ANSWER_SECONDS: Final = 15.0
"""The Lease alone is asked for every two."""


class Health:
    """The one owner of what is known of the operator's own health. `now` is the event loop's time."""

    def __init__(self, queue: Keys) -> None:
        self._queue = queue
        self._announcements = Announcements()
        self._answered_at: float | None = None
        self._error = ""

    def heard(self, uid: str, version: str, now: float) -> None:
        """A watch told of an object: its resourceVersion."""
        self._announcements.heard(uid, version, now)

    def listed(self, versions: Mapping[str, str], began: float, now: float) -> None:
        """A resync, begun then, has listed all objects of some watched kinds: their resourceVersions by uid."""
        self._announcements.listed(versions, began, now)

    def api_answered(self, now: float) -> None:
        """The API server gave an answer."""
        self._answered_at = now

    def api_failed(self, now: float, error: str) -> None:
        """The API server gave none, or said that it is not well."""
        self._error = error
        self._announcements.interrupted(now)

    def missed(self, now: float) -> int:
        """How many changes no watch has told of in time, since the start."""
        return self._announcements.missed(now)

    def why_dead(self, now: float) -> str:
        """Why only a restart helps; empty if all is well."""
        stuck = self._queue.oldest_working(now)
        if stuck >= STUCK_SECONDS:
            return f"a model has been worked on for {stuck:.0f} s"
        if overdue := self._announcements.overdue(now):
            return f"no watch told of the changes of {len(overdue)} objects, {overdue[0]} for one"
        return ""

    def why_unready(self, now: float) -> str:
        """Why it can do nothing at present; empty if it can."""
        if self._answered_at is not None and now - self._answered_at < ANSWER_SECONDS:
            return ""
        silent = "yet" if self._answered_at is None else f"for {now - self._answered_at:.0f} s"
        return f"the API server has not answered {silent}" + (f": {self._error}" if self._error else "")


@contextlib.asynccontextmanager
async def serving(port: int, health: Health, registry: CollectorRegistry) -> AsyncIterator[None]:
    """Answer on the port while the block runs. Raises UserError if it cannot be had."""
    application = web.Application()
    application.router.add_get("/healthz", _verdict(health.why_dead))
    application.router.add_get("/readyz", _verdict(health.why_unready))
    application.router.add_get("/metrics", make_aiohttp_handler(registry))
    runner = web.AppRunner(application, access_log=None, handle_signals=False, shutdown_timeout=1.0)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, None, port).start()
        except OSError as error:
            raise UserError(f"--health-port: cannot listen on port {port}: {error.strerror or error}") from error
        yield
    finally:
        await runner.cleanup()


def _verdict(why_not: Callable[[float], str]) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def answer(request: web.Request) -> web.Response:
        reason = why_not(asyncio.get_running_loop().time())
        return web.Response(status=503 if reason else 200, text=f"{reason or 'ok'}\n")

    return answer
