"""Decides which replica of a model starts ahead of the others, and how long they wait for it. Pure.

The one ahead compiles the model; the others then find what it compiled and start together. Weights need no such care:
processes that read one file at the same time read it once, through the page cache. What a replica does again, after it
was started once, waits for nobody.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

STILL_SECONDS: Final = 600.0
"""Whoever is ahead and tells nothing new for so long is waited for no more: as long as vLLM waits for its own core."""

FAILURES: Final = 2
"""So many that went ahead and failed are no chance: the others may as well start, and be seen to fail."""


@dataclass(frozen=True, slots=True)
class Start:
    """How far the first start of one replica is."""

    name: str
    news_at: float | None = None
    """When it last told something new, by the clock of `now`; None if it was not started yet."""
    shares: bool = False
    """It is through with what the others can share."""
    failed: bool = False
    """It ended."""


@dataclass(frozen=True, slots=True)
class Decision:
    """Who goes ahead."""

    ahead: str
    """The replica that all that have not begun wait for; empty if none waits any more."""
    why: str = ""
    """Why none waits any more."""
    compiled: bool = False
    """Because the model is compiled."""


def decide(starts: Sequence[Start], now: float) -> Decision:
    """Who is ahead of the replicas of one model that are to run."""
    through = [each.name for each in starts if each.shares]
    if through:
        return Decision("", f"replica {through[0]} has compiled the model", compiled=True)
    failed = [each.name for each in starts if each.failed]
    if len(failed) >= FAILURES:
        return Decision("", f"replicas {' and '.join(failed[:FAILURES])} went ahead and failed")
    for each in starts:
        if each.failed:
            continue
        if each.news_at is not None and now - each.news_at > STILL_SECONDS:
            return Decision("", f"replica {each.name}, which went ahead, has told nothing new for {STILL_SECONDS:g} s")
        return Decision(each.name)
    return Decision("")
