"""What there is to do about the end of an engine besides starting it again: find out why, write it down, clear away.

The one owner of what is collected for that while the engine lives. It must not decide when an engine ends.
"""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from dp_vllm.engine.causes import Cause
from dp_vllm.local import cgroup, stacks
from dp_vllm.local.crash_report import Life
from dp_vllm.local.crashes import Crashes
from dp_vllm.local.gpu_memory import GpuMemory
from dp_vllm.local.process import Exit, Program, Running
from dp_vllm.local.segments import Segments

FIRST_LOOK_SECONDS: Final = 0.5
LONGEST_PAUSE_SECONDS: Final = 30.0
"""Ever less often it is noted which shared memory an engine uses: it makes most of it while it starts."""


class Aftermath:
    """Of one program, life after life. What it is not given, it does nothing about: the gateway needs nothing."""

    def __init__(
        self,
        crashes: Crashes | None = None,
        segments: Segments | None = None,
        gpu_memory: GpuMemory | None = None,
    ) -> None:
        self._crashes = crashes
        self._segments = segments
        self._gpu_memory = gpu_memory
        self._began_at = 0.0
        self._oom_kills = 0
        """Those of our cgroup before this life."""
        self._stacks = ""
        self._folder: Path | None = None
        """Where the last end was written down."""

    def begin(self, program: Program) -> None:
        """A life begins, of this program."""
        if self._crashes is not None:
            self._crashes.began(program)
        self._began_at = time.monotonic()
        self._oom_kills = cgroup.oom_kills()
        self._stacks = ""

    async def watch(self, program: Running) -> None:
        """Run for as long as the program does."""
        pause = FIRST_LOOK_SECONDS
        while self._segments is not None:
            await asyncio.sleep(pause)
            await asyncio.to_thread(self._segments.look, program.guardian.pid)
            pause = min(pause * 1.5, LONGEST_PAUSE_SECONDS)

    async def take_stacks(self, program: Running, log: Path) -> None:
        """End its Python processes, after they have said in the log where they are."""
        self._stacks = await asyncio.to_thread(stacks.take, program.guardian.pid, program.program.pid, log)

    async def see_last(self, program: Running) -> None:
        """The program has just ended; some of its descendants may still be there."""
        if self._segments is not None:
            await asyncio.to_thread(self._segments.look, program.guardian.pid)

    async def write_down(
        self, number: int, ready_seconds: float | None, end: Exit | None, problem: str, lines: Sequence[str]
    ) -> tuple[Cause | None, Path | None]:
        """Why its life number `number` ended, which nobody had asked for, and the folder that says so."""
        self._folder = None
        if self._crashes is None:
            return None, None
        life = Life(
            number=number,
            ended_at=time.time(),
            seconds=time.monotonic() - self._began_at,
            ready_seconds=ready_seconds,
            exit=end,
            problem=problem,
            lines=lines,
            stacks=self._stacks,
            oom_kills=cgroup.oom_kills() - self._oom_kills,
        )
        cause, self._folder = await asyncio.to_thread(self._crashes.write, life)
        return cause, self._folder

    async def clear_away(self) -> None:
        """Nothing runs of it any more."""
        if self._segments is not None:
            await asyncio.to_thread(self._segments.sweep)
        if self._gpu_memory is not None and self._folder is not None:
            await asyncio.to_thread(self._gpu_memory.look)
            await self.add_gpu_memory(str(self._gpu_memory))

    async def add_gpu_memory(self, found: str) -> None:
        """Add to what was written down of its last end what is known of the memory of its GPUs."""
        if self._crashes is not None and self._folder is not None:
            await asyncio.to_thread(self._crashes.add_gpu_memory, self._folder, found)
