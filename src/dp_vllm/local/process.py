"""One program and its guardian, as the supervisor sees them: start, signal, kill, how it ended.

It must not know what the program is for, nor decide when it is to run. Plain asyncio in the main thread: the guardian's
pipes and `guardian.py`'s lines are all there is to it.
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dp_vllm import inherited, own_files
from dp_vllm.local import pids
from dp_vllm.local.pids import ProcessId

GUARDIAN = Path(__file__).with_name("guardian.py")


@dataclass(frozen=True, slots=True)
class Program:
    """What to run."""

    name: str
    """Shown by `ps` beside the guardian."""
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    log: Path
    """Where its output is appended."""
    fds: tuple[int, ...] = ()
    """Inheritable file descriptors of ours that stay open in it, with the same numbers."""


@dataclass(frozen=True, slots=True)
class Exit:
    """How a program ended."""

    code: int | None = None
    signal: int | None = None
    """Both are None if nobody saw its end: its guardian was killed, and it with it."""

    def __str__(self) -> str:
        if self.code is not None:
            return f"exit status {self.code}"
        if self.signal is None:
            return "killed together with its guardian"
        try:
            return f"killed by {signal.Signals(self.signal).name}"
        except ValueError:
            return f"killed by signal {self.signal}"


class Running:
    """A program that was started. Its `exit` is to be awaited by one task alone."""

    def __init__(self, process: asyncio.subprocess.Process, guardian: ProcessId, program: ProcessId) -> None:
        self._process = process
        self.guardian = guardian
        self.program = program
        self.ended = False
        """Whether `exit` has returned."""

    async def exit(self) -> Exit:
        """How the program ended, as soon as it has; some of its descendants may still run."""
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        self.ended = True
        return Exit(**json.loads(line)) if line else Exit()

    def signal(self, number: int) -> None:
        """Send the program, and it alone, a signal; nothing happens if it has ended."""
        self._order({"signal": number})

    def kill(self) -> None:
        """Kill the program and all its descendants."""
        self._order({"kill": True})

    def _order(self, order: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        if not self._process.stdin.is_closing():
            self._process.stdin.write(json.dumps(order).encode() + b"\n")


@contextlib.asynccontextmanager
async def running(program: Program) -> AsyncIterator[Running]:
    """Run `program` during the block. After it, the program and everything that came from it are gone.

    Descendants of a program whose `exit` was awaited have a short time to end by themselves; leaving the block earlier
    kills all. Raises OSError, with the reason, if the program cannot be started.
    """
    log = own_files.appended(program.log)
    try:
        guardian = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", str(GUARDIAN), program.name),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,  # a terminal's Ctrl-C is for us alone
            pass_fds=(*program.fds, log),
            env={name: os.environ[name] for name in inherited.by_helper(os.environ)},
        )
    finally:
        os.close(log)
    assert guardian.stdin is not None and guardian.stdout is not None
    now: Running | None = None
    try:
        identity = pids.identify(
            guardian.pid
        )  # while it waits for its orders: it ends with a program that ends at once
        now = Running(guardian, identity, await _start(guardian.stdin, guardian.stdout, program, log))
        yield now
        if now.ended:
            await guardian.stdout.read()
    finally:
        guardian.stdin.close()  # end of file: kill all
        await guardian.stdout.read()
        if await guardian.wait() != 0 and now is not None:
            # Nobody adopted what the guardian stood for. The session is what can still be found.
            await asyncio.to_thread(pids.kill_session, now.program)


async def _start(orders: asyncio.StreamWriter, reports: asyncio.StreamReader, program: Program, log: int) -> ProcessId:
    description = {
        "argv": program.argv,
        "env": dict(program.environment),
        "cwd": os.getcwd(),
        "log": log,
        "fds": program.fds,
    }
    orders.write(json.dumps(description).encode() + b"\n")
    line = await reports.readline()
    answer: dict[str, Any] = json.loads(line) if line else {"failed": "the guardian ended before it began"}
    if "failed" in answer:
        raise OSError(answer["failed"])
    return ProcessId(answer["started"], answer["ticks"])
