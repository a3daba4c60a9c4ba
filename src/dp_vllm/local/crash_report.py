"""What is written down of an engine that ended although nobody asked it to: typed, and as a page for people. Pure."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from dp_vllm.local.process import Exit

_SHOWN_LINES: Final = 30
"""Of the log, at the end of the page."""


@dataclass(frozen=True, slots=True)
class Life:
    """One life of a program, from its start to its end, as its `Child` saw it."""

    number: int
    """How many starts there had been, with this one."""
    ended_at: float
    """Seconds since the epoch."""
    seconds: float
    """How long it ran."""
    ready_seconds: float | None
    """How long it had been ready; None if it never was."""
    exit: Exit | None
    """None if it could not be started."""
    problem: str = ""
    """Why it could not be started, or was killed by us; empty if it ended by itself."""
    lines: Sequence[str] = ()
    """The last that it wrote."""
    stacks: str = ""
    """Of its Python processes, if they were asked for."""
    oom_kills: int = 0
    """Processes that the kernel killed meanwhile, for want of memory, in our cgroup."""

    @property
    def how(self) -> str:
        """`exit status 1`, `killed by SIGKILL`, `it hung for 180 s`."""
        return self.problem or str(self.exit)

    @property
    def evidence(self) -> list[str]:
        """All that the cause may be read from: its lines, then what is known besides."""
        known = [] if self.problem else [f"dp-vllm: {self.how}"]
        if self.oom_kills:
            processes = f"{self.oom_kills} {'process' if self.oom_kills == 1 else 'processes'}"
            known.append(f"dp-vllm: the kernel killed {processes} for want of memory (oom_kill in memory.events)")
        return [*self.lines, *known]


@dataclass(frozen=True, slots=True)
class Report:
    """`report.json`."""

    replica: str
    gpus: tuple[str, ...]
    engine: str
    """`vllm 0.32.0`"""
    dp_vllm: str
    """Our own version."""
    command: tuple[str, ...]
    """Without secrets, as everything here."""
    environment: Mapping[str, str]
    """The variables that engines read."""
    start: int
    """Which of the replica's starts it was."""
    ended_at: str
    """In UTC: `2026-11-21T22:00:00Z`."""
    how: str
    exit_code: int | None
    signal: str | None
    """`SIGKILL`"""
    ran_seconds: float
    ready_seconds: float | None
    """None if it never was ready."""
    oom_kills: int
    reason: str = ""
    """In one word; empty if the cause is not known."""
    cause: str = ""
    fix: str = ""
    gpu_memory: str = ""
    """What was free of its GPUs after its end, and who held the rest."""


def page(report: Report, lines: Sequence[str], beside: Sequence[str]) -> str:
    """`report.txt`: what a person reads first. `beside` are the names of the other files."""
    ready = "never ready" if report.ready_seconds is None else f"ready for {report.ready_seconds:.0f} s"
    facts = {
        "cause": report.cause or f"not known; see {'stacks.txt' if 'stacks.txt' in beside else 'the last lines'}",
        "what helps": report.fix,
        "when": f"{report.ended_at}, in start {report.start} of this replica",
        "it ran": f"{report.ran_seconds:.0f} s, {ready}",
        "GPU": ", ".join(report.gpus),
        "GPU memory": report.gpu_memory,
        "engine": f"{report.engine}, run by dp-vllm {report.dp_vllm}",
        "command": shlex.join(report.command),
        "beside this": ", ".join(beside),
    }
    return "\n".join(
        (
            f"replica {report.replica} ended: {report.how}",
            "",
            *(f"{name:<12} {fact}" for name, fact in facts.items() if fact),
            "",
            "The last lines of its log:" if lines else "Its log is empty.",
            "",
            *(f"    {line}" for line in lines[-_SHOWN_LINES:]),
            "",
        )
    )
