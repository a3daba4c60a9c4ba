"""Reaps what the first process of a container inherits: orphans for which nobody else will ever wait.

It must not know which children are ours. Those are waited for at once by whoever started them, so a child that is a
zombie at two looks in a row is an orphan.
"""

import asyncio
import contextlib
import os
from typing import Final

from dp_vllm.local import pids
from dp_vllm.local.pids import ProcessId

LOOK_SECONDS: Final = 2.0


async def reap() -> None:
    """Run for ever. Of use where this process is pid 1 or a subreaper, harmless elsewhere."""
    seen: set[ProcessId] = set()
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        zombies = pids.zombies_of(os.getpid())
        _forget(zombies & seen)
        seen = zombies


def _forget(zombies: set[ProcessId]) -> None:
    for zombie in zombies:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(zombie.pid, os.WNOHANG)
