"""Runs the engine's steps in real time. The only place where the engine waits."""

import asyncio
import time
from typing import Final

from dp_vllm.sim.engine import Engine

_CATCH_UP_SECONDS: Final = 0.05
"""A loop later than this has too much to do: the time is lost."""


class Steps:
    """The loop of one engine. `hold` makes it stand still, as a hung or a paused engine does."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.slowness = 1.0
        """How many times longer than planned each step takes."""
        self._work = asyncio.Event()
        self._going = asyncio.Event()
        self._going.set()
        self._held: set[str] = set()
        self._idle = asyncio.Event()

    def wake(self) -> None:
        """There is something to do again."""
        self._work.set()

    def hold(self, reason: str) -> None:
        """Stand still until every reason to is taken back; a step under way does not end."""
        self._held.add(reason)
        self._going.clear()

    def let_go(self, reason: str) -> None:
        """Take a reason back."""
        self._held.discard(reason)
        if not self._held:
            self._going.set()

    async def until_idle(self) -> None:
        """Wait until there is nothing to do."""
        await self._idle.wait()

    async def run(self) -> None:
        """Step for ever. One that ends late makes the next shorter, so that the pace holds; not without bound."""
        start = time.monotonic()
        while True:
            await self._going.wait()
            seconds = self.engine.begin(time.monotonic())
            if seconds is None:
                self._work.clear()
                self._idle.set()
                await self._work.wait()
                self._idle.clear()
                start = time.monotonic()
                continue
            seconds *= self.slowness
            await asyncio.sleep(start + seconds - time.monotonic())
            await self._going.wait()
            now = time.monotonic()
            self.engine.finish(now)
            start = max(start + seconds, now - _CATCH_UP_SECONDS)
