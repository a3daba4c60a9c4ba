"""What SIGTERM and SIGINT do, as seen on vLLM 0.32:

- While the model loads the first one is swallowed; the second ends the program.
- Without `--shutdown-timeout` the listener closes, running requests end at once with finish_reason "abort", and the
  program exits.
- With it the program drains: it goes on listening, answers new work 500 (and `/health` 200), ignores further signals
  and exits once the last request is answered. At the deadline the engine is killed and the listener closes, but
  requests under way are neither answered nor cut, and the program never exits.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from dp_vllm.sim.app import App
from dp_vllm.sim.server import Server

_log = logging.getLogger("dp_vllm.sim")


class Lifecycle:
    """The way from loading to the exit."""

    def __init__(self, app: App, server: Server, close_listener: Callable[[], None]) -> None:
        self._app = app
        self._server = server
        self._close_listener = close_listener
        self._signals = 0
        self._signalled = asyncio.Event()
        self.loading = True

    def on_signal(self) -> None:
        """A SIGTERM or SIGINT came."""
        if self._app.faults_ignore_sigterm:
            _log.info("SIGTERM ignored, as the fault says")
            return
        self._signals += 1
        if self.loading and self._signals == 1:
            _log.info("signal while the engine starts: swallowed")
            return
        self._signalled.set()

    async def wait_for_signal(self) -> None:
        await self._signalled.wait()

    async def end(self) -> None:
        """From the signal to the moment when the program may exit."""
        timeout = self._app.options.shutdown_timeout_seconds
        if timeout <= 0:
            self._close_listener()
            self._app.draining = True
            self._app.engine.end_all("abort")
        else:
            _log.info("Draining: waiting up to %g s for %d requests", timeout, self._server.in_flight)
            self._app.draining = True
            await self._drain(timeout)
            self._close_listener()
        await self._server.idle.wait()

    async def _drain(self, timeout: float) -> None:
        try:
            async with asyncio.timeout(timeout):
                await self._server.idle.wait()
        except TimeoutError:
            _log.info("shutdown timeout is over: engine killed; %d requests hang", self._server.in_flight)
            self._app.steps.hold("killed")
