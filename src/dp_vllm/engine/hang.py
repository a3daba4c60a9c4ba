"""When an engine hangs, although `/health` says 200: it has requests, and its core moves nothing. Pure.

The rule is that of the liveness probe which the operator puts into pods (`engine_life.py`, a program of its own).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

HANG_SECONDS: Final = 180.0
"""How long an engine may stand still: the first token of the longest prompt may take minutes."""

COUNTERS: Final = ("vllm:iteration_tokens_total_count", "vllm:kv_cache_usage_perc")
"""One of them moves while the core works; the first alone stands still during one long prefill."""
QUEUES: Final = ("vllm:num_requests_running", "vllm:num_requests_waiting")

CANARY_PATH: Final = "/invocations"
CANARY: Final = {"prompt": "a", "input": "a", "max_tokens": 1}
"""The smallest request: one token, or one vector of a model that makes vectors."""


@dataclass(frozen=True, slots=True)
class Look:
    """What an engine showed of itself at one moment."""

    answers: bool = True
    requests: int = 0
    """HTTP requests under way, or what its core has in hand, whichever is more."""
    counters: str = ""
    """The lines of `COUNTERS`; empty if one is missing, as with --disable-log-stats."""

    @property
    def trouble(self) -> str:
        """What may be wrong, in the same words for as long as it lasts; empty if nothing is."""
        if not self.answers:
            return "silent"
        return self.counters if self.requests > 0 else ""

    def says(self, seconds: float) -> str:
        """A sentence about the trouble, for people."""
        if not self.answers:
            return f"it did not answer for {seconds:.0f} s"
        return f"it hung: it had requests ({self.requests}), and its core did nothing for {seconds:.0f} s"


@dataclass(frozen=True, slots=True)
class Standstill:
    """That an engine has been in the same trouble for a while."""

    look: Look
    since: float


def follow(before: Standstill | None, look: Look, now: float) -> Standstill | None:
    """What is to be thought of an engine after one more look; None if all is well."""
    if not look.trouble:
        return None
    if before is not None and before.look.trouble == look.trouble:
        return Standstill(look, before.since)
    return Standstill(look, now)


def look(load: int | None, metrics: str) -> Look:
    """Of an engine that answers: `load` is what /load says, `metrics` the text of /metrics."""
    queued = sum(_count(line) for line in _lines(metrics, QUEUES))
    return Look(requests=max(load or 0, queued), counters="\n".join(_lines(metrics, COUNTERS)))


def _lines(metrics: str, names: Iterable[str]) -> list[str]:
    """The lines of these metrics; none if one of them is missing."""
    starts = tuple(f"{name}{{" for name in names)
    lines = [line for line in metrics.splitlines() if line.startswith(starts)]
    return lines if all(any(line.startswith(start) for line in lines) for start in starts) else []


def _count(line: str) -> int:
    """A metric's value; 0 if it is none, as NaN."""
    try:
        return int(float(line.split()[-1]))
    except (ValueError, OverflowError):
        return 0
