"""What engines of one host share while they start: the model's files once they are there, what was compiled, the cores.

Simulated engines that name one directory with `--sim-host` are on one host. What one of them has done takes the others
`AGAIN` of its time. Those that download or read at once do it in step, as processes do that read one file through one
page cache; those that compile at once share so many cores. A core is a lock, which ends with its process.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

AGAIN: Final = 0.05
"""Of the time that something takes, what it takes where somebody has done it before."""

_SLICE_SECONDS: Final = 0.05
"""How long a core is held before others may have it."""


class Host:
    """The host of one simulated engine."""

    def __init__(self, directory: Path, cores: int) -> None:
        self._directory = directory
        self._cores = cores

    async def fetch(self, what: str, seconds: float) -> None:
        """Take so long, or less if somebody of this host was through with it when it began."""
        await asyncio.sleep(seconds * self._part(what))
        self._note(what)

    async def compute(self, what: str, seconds: float) -> None:
        """The same with something that takes a core for so long."""
        left = seconds * self._part(what)
        while left > 0:
            async with self._core():
                await asyncio.sleep(min(left, _SLICE_SECONDS))
            left -= _SLICE_SECONDS
        self._note(what)

    def _part(self, what: str) -> float:
        return AGAIN if (self._directory / what).exists() else 1

    def _note(self, what: str) -> None:
        (self._directory / what).touch()

    @contextlib.asynccontextmanager
    async def _core(self) -> AsyncIterator[None]:
        while True:
            for number in range(self._cores):
                fd = os.open(self._directory / f"core-{number}", os.O_RDWR | os.O_CREAT, 0o600)
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                else:
                    yield
                    return
                finally:
                    os.close(fd)
            await asyncio.sleep(_SLICE_SECONDS / 10)
