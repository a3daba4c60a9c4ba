"""What SIGTERM and SIGINT do, as seen on vLLM 0.32:

- While the model loads the first one is swallowed; the second ends the program.
- Without `--shutdown-timeout` the listener closes, running requests end at once with finish_reason "abort", and the
  program exits; what then still hangs is given two seconds.
- With it the program drains: it goes on listening, answers new work 500 (and `/health` 200), ignores further signals
  and exits once the last request is answered. At the deadline the engine is killed and the listener closes, but
  requests under way are neither answered nor cut, and the program never exits.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, Final

from dp_vllm.sim.app import App
from dp_vllm.sim.listen import Door
from dp_vllm.sim.server import Server

_log = logging.getLogger("dp_vllm.sim")
_HANGING_SECONDS: Final = 2.0


class Lifecycle:
    """The way from loading to the exit."""

    def __init__(self) -> None:
        self.ignores = False
        """A fault: signals do nothing."""
        self._loading = True
        self._signals = 0
        self._signalled = asyncio.Event()

    def on_signal(self) -> None:
        """A SIGTERM or SIGINT came."""
        if self.ignores:
            _log.info("signal ignored, as the fault says")
            return
        self._signals += 1
        if self._loading and self._signals == 1:
            _log.info("signal while the engine starts: swallowed")
            return
        self._signalled.set()

    def loaded(self) -> None:
        """From now on the first signal counts."""
        self._loading = False

    async def unless_ended(self, load: Coroutine[Any, Any, None]) -> bool:
        """Load, unless a second signal comes before that is done; whether it is."""
        loading, ending = asyncio.ensure_future(load), asyncio.ensure_future(self._signalled.wait())
        try:
            await asyncio.wait((loading, ending), return_when=asyncio.FIRST_COMPLETED)
            if loading.done():
                loading.result()
            return loading.done()
        finally:
            loading.cancel()
            ending.cancel()

    async def end(self, app: App, server: Server, door: Door) -> None:
        """Wait for the signal; return when the program may exit."""
        await self._signalled.wait()
        timeout = app.options.shutdown_timeout_seconds
        app.draining = True
        if timeout > 0:
            _log.info("Draining: up to %g s for %d requests", timeout, server.in_flight)
            if not await _within(timeout, server):
                _log.info("the shutdown timeout is over: the engine is killed, %d requests hang", server.in_flight)
                app.steps.hold("killed")
                door.close()
                await server.idle.wait()
        door.close()
        app.engine.end_all("abort")
        await _within(_HANGING_SECONDS, server)
        _log.info("Application shutdown complete.")


async def _within(seconds: float, server: Server) -> bool:
    """Whether the last request was answered within so many seconds."""
    try:
        async with asyncio.timeout(seconds):
            await server.idle.wait()
    except TimeoutError:
        return False
    return True
