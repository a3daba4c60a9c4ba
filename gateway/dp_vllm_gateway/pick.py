"""Which endpoint a request goes to: a pure decision over a snapshot of the pool."""

import enum
from collections.abc import Sequence
from typing import Final, NamedTuple

PREFILL_TOKENS_PER_SECOND: Final = 15_000.0
"""How fast an engine is taken to read prompts."""

STEP_SECONDS: Final = 0.02
"""Waits that differ by less than an engine's step are equal: the work begins with the next step either way."""


class Policy(enum.Enum):
    """How an endpoint is chosen."""

    LEAST_LOAD = "least-load"
    """The least expected wait, then the fewest sequences in flight."""
    ROUND_ROBIN = "round-robin"
    """One after the other."""


class View(NamedTuple):
    """What one decision sees of an endpoint that may be picked."""

    name: str
    waiting_tokens: int
    """Prompt tokens that were given to it and not yet begun to be answered."""
    sequences: int
    """Sequences in flight, each to its last byte."""

    def load(self) -> tuple[int, int]:
        """Expected wait in engine steps, then sequences in flight."""
        return int(self.waiting_tokens / (PREFILL_TOKENS_PER_SECOND * STEP_SECONDS)), self.sequences


def pick(policy: Policy, views: Sequence[View], turn: int) -> View | None:
    """Choose from `views`, all of them available; None if there are none. Ties take turns."""
    if not views:
        return None
    if policy is Policy.ROUND_ROBIN or len(views) == 1:
        return views[turn % len(views)]
    loads = [view.load() for view in views]
    least = min(loads)
    best = [view for view, load in zip(views, loads, strict=True) if load == least]
    return best[turn % len(best)]
