"""One program that is kept running, life after life: what is known of it, and the effects that `plan` asks for.

The one owner of that knowledge. It must not know other programs, nor decide anything: the supervisor asks `plan`.
"""

import asyncio
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

from dp_vllm.endpoints import State
from dp_vllm.engine.log import LONGEST, Stage
from dp_vllm.local import logs, plan, words
from dp_vllm.local.keep import Keep
from dp_vllm.local.plan import End, Observed, Stop
from dp_vllm.local.process import Exit, Program, Running, running
from dp_vllm.local.redact import Redactor
from dp_vllm.local.run import Guarded

PROBE_SECONDS: Final = 0.25
"""How often a starting program is asked whether it is ready."""

MEMORY_SECONDS: Final = 60.0
"""How long the memory of its GPUs is waited for before it is started all the same."""

MEMORY_POLL_SECONDS: Final = 1.0


class Child:
    """A program, its lives so far, and the present one."""

    def __init__(self, name: str, keep: Keep, changed: Callable[[], None], *, starts: int = 0) -> None:
        """`starts` counts those of former children of that name, so that no two lives have the same number."""
        self.name = name
        self.observed = Observed()
        self.limits = keep.limits
        self.starts = starts
        self.was_ready = False
        """In any of its lives."""
        self.stage: Stage | None = None
        """How far the start is; None before its log says so, and once it is ready."""
        self.news_at = 0.0
        """When its present start last came further, by `time.monotonic`."""
        self.waits_for = ""
        """What a start waits for; empty if nothing holds it up."""
        self._keep = keep
        self._changed = changed
        """Called whenever something is new."""
        self.started_at = 0.0
        """When its present life began, or its last one."""
        self._alive = False
        """The program itself runs, or is about to."""
        self._running: Running | None = None
        self._log_begin = 0
        self._hung = ""
        """Why the present life is ended for hanging."""
        self._said: list[str] = []
        """The last that it said before it was asked for its stacks, which may be long."""
        self._hangs = asyncio.Event()
        self.redacted = Redactor(keep.program.argv, keep.program.environment).text
        """Takes the program's secrets out of what it wrote."""

    @property
    def has_begun(self) -> bool:
        """Whether it was ever started."""
        return self.started_at > 0

    @property
    def message(self) -> str:
        """How far the start is, in words; empty if nothing is known of it."""
        return self.waits_for or str(self.stage or "")

    @property
    def state(self) -> State:
        """What others are told of it."""
        if not self._alive:
            return State.DOWN if self.has_begun or self.observed.stop is not None else State.STARTING
        if self.observed.stop is not None or self._hung:
            return State.DRAINING
        return State.STARTING if self.observed.ready_at is None else State.READY

    @property
    def address(self) -> str:
        """Where it listens while it runs."""
        return self._keep.address

    @property
    def models(self) -> tuple[str, ...]:
        """What clients call the model that it serves, where that is known beforehand."""
        return self._keep.models

    @property
    def log(self) -> Path:
        """Where it writes to."""
        return self._keep.program.log

    @property
    def is_draining(self) -> bool:
        """It is to end, and something may be in flight on it still."""
        return self.observed.running and self.observed.stop is not None and not self.observed.drained

    @property
    def stays_down(self) -> bool:
        """Whether it is not started any more, because that is pointless."""
        return plan.stays_down(self.observed.ends, self.limits)

    @property
    def start_seconds(self) -> float:
        """How long its present life took to become ready; 0 before."""
        ready_at = self.observed.ready_at
        return 0.0 if ready_at is None else ready_at - self.started_at

    @property
    def pids(self) -> Guarded | None:
        """Who runs; None while nobody does."""
        return Guarded(self._running.guardian, self._running.program) if self._running else None

    def last_lines(self) -> list[str]:
        """What it wrote in its present or last life, the end of it; with secrets."""
        return logs.last_lines(self._keep.program.log, self._log_begin)

    def start(self, tasks: asyncio.TaskGroup) -> None:
        """Begin a new life; one that was ordered begins a new row of ends."""
        assert not self.observed.running
        self.starts += 1
        self.started_at = time.monotonic()
        self.stage = None
        self.news_at = self.started_at
        self._alive = True
        ends = self.observed.ends if self.observed.stop is None else ()
        self.observed = Observed(running=True, ends=ends)
        tasks.create_task(self._live())

    def order_stop(self, stop: Stop) -> None:
        """It is to end; how and when exactly is for `plan` to say."""
        self.observed = replace(self.observed, stop=stop)
        self._changed()

    def note_drained(self) -> None:
        """Nothing is in flight on it any more."""
        self.observed = replace(self.observed, drained=True)

    def term(self) -> None:
        """Ask it to end."""
        if self._running:
            self.observed = replace(self.observed, terms=(*self.observed.terms, time.monotonic()))
            self._running.signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kill it and everything that came from it."""
        if self._running:
            self.observed = replace(self.observed, killed=True)
            self._running.kill()

    def end_hung(self, why: str) -> None:
        """Kill it because it hangs, once its Python processes have said where they are; `why` is for people."""
        if self._running:
            self._hung, self._said = why, self.last_lines()
            self._hangs.set()
            self._changed()

    async def _live(self) -> None:
        self._hung = ""
        self._hangs.clear()
        try:
            await self._wait_for_memory()
            program = await self._prepared()
            if self.observed.stop is not None:
                return  # the order came between the decision to start and now
            self._remove_socket()
            self._log_begin = logs.size(self._keep.program.log)
            self._keep.aftermath.begin(program)
            async with running(program) as self._running:
                how = await self._until_its_end(self._running)
                await self._note_end(how, self._said if self._hung else self.last_lines())
            await self._keep.aftermath.clear_away()
        except OSError as error:
            await self._note_end(None, [str(error)])
        finally:
            self._running = None
            self._alive = False
            self.observed = replace(self.observed, running=False)
            self._changed()

    async def _prepared(self) -> Program:
        """What to start this time."""
        self.wait(self._keep.hub.question)
        program = await self._keep.hub.prepared(self._keep.program)
        self.wait("")
        return program

    def _remove_socket(self) -> None:
        if self.address.startswith("unix:"):
            Path(self.address.removeprefix("unix:")).unlink(missing_ok=True)

    async def _wait_for_memory(self) -> None:
        memory, end = self._keep.gpu_memory, time.monotonic() + MEMORY_SECONDS
        while memory is not None and self.observed.stop is None and not await asyncio.to_thread(memory.is_back):
            if time.monotonic() > end:
                missing = words.memory_is_missing(str(memory), MEMORY_SECONDS)
                logs.append(self._keep.program.log, f"dp-vllm: {missing}; it is started all the same")
                await self._keep.aftermath.add_gpu_memory(missing)
                break
            self.wait(words.WAITING_FOR_MEMORY)
            await asyncio.sleep(MEMORY_POLL_SECONDS)
        self.wait("")

    def wait(self, for_what: str) -> None:
        """Say what holds up its start; empty if nothing does any more."""
        if for_what != self.waits_for:
            self.waits_for = for_what
            self._changed()

    def _tell(self, stage: Stage | None) -> None:
        if stage is not None and stage != self.stage:
            self.stage = stage
            self.news_at = time.monotonic()
            self._changed()

    async def _until_its_end(self, program: Running) -> Exit:
        async with asyncio.TaskGroup() as tasks:
            chores = [tasks.create_task(self._until_ready()), tasks.create_task(self._keep.aftermath.watch(program))]
            hanging = tasks.create_task(self._until_hung(program))
            how = await program.exit()
            for chore in chores if self._hung else (*chores, hanging):
                chore.cancel()
        await self._keep.aftermath.see_last(program)
        return how

    async def _until_hung(self, program: Running) -> None:
        await self._hangs.wait()
        await self._keep.aftermath.take_stacks(program, self._keep.program.log)
        program.kill()

    async def _until_ready(self) -> None:
        while not await self._keep.is_ready():
            self._tell(self._keep.stage(self.last_lines()))
            await asyncio.sleep(PROBE_SECONDS)
        await self._keep.hub.note_ready(self._keep.program)
        self.stage = None
        self.observed = replace(self.observed, ready_at=time.monotonic())
        self.was_ready = True
        self._changed()

    async def _note_end(self, how: Exit | None, lines: list[str]) -> None:
        """`how` is None if it could not be started, and `lines` say why. Whom a signal ended had no last word."""
        lines = [self.redacted(line) for line in lines]
        problem = "it cannot be started" if how is None else self._hung
        ready_at = self.observed.ready_at
        ready_seconds = None if ready_at is None else time.monotonic() - ready_at
        cause, folder = None, None
        if self.observed.stop is None:
            cause, folder = await self._keep.aftermath.write_down(self.starts, ready_seconds, how, problem, lines)
        last_line = logs.last_words(lines)[:LONGEST] if how is None or how.code is not None else ""
        failed = ready_at is None and not problem and self.observed.stop is None
        excused = failed and self._keep.hub.excuses(how, cause)
        said = str(cause or "")[:LONGEST]
        end = End(time.monotonic(), ready_seconds, problem or str(how), said, last_line, folder, excused)
        ends = plan.ends_after(self.observed.ends, end, self.limits)
        self._alive = False
        self.stage = None
        self.observed = replace(self.observed, ready_at=None, ends=ends)
        self._changed()
