"""Which endpoint a request goes to: a pure decision over a snapshot of the pool."""

import enum
from collections.abc import Sequence
from typing import Final, Protocol, TypeVar

PREFILL_TOKENS_PER_SECOND: Final = 15_000.0
"""How fast an engine is taken to read prompts."""

STEP_SECONDS: Final = 0.02
"""Waits that differ by less than an engine's step are equal: the work begins with the next step either way."""


STEP_TOKENS: Final = int(PREFILL_TOKENS_PER_SECOND * STEP_SECONDS)
"""Prompt tokens that an engine reads in a step."""


class Policy(enum.Enum):
    """How an endpoint is chosen."""

    LEAST_LOAD = "least-load"
    """The least expected wait, then the fewest sequences in flight."""
    ROUND_ROBIN = "round-robin"
    """One after the other."""


class Load(Protocol):
    """What one decision sees of an endpoint that may be picked."""

    @property
    def waiting_tokens(self) -> int:
        """Prompt tokens that were given to it and not yet begun to be answered."""

    @property
    def sequences(self) -> int:
        """Sequences in flight, each to its last byte."""


_ROUND_ROBIN: Final = Policy.ROUND_ROBIN
_MOST_SEQUENCES: Final = 1 << 32
"""More than an engine can have: one step of waiting outweighs any number of sequences."""

Candidate = TypeVar("Candidate", bound=Load)


def pick(policy: Policy, candidates: Sequence[Candidate], turn: int) -> Candidate | None:
    """Choose from `candidates`, all of them available; None if there are none. Ties take turns."""
    if not candidates:
        return None
    if policy is _ROUND_ROBIN:
        return candidates[turn % len(candidates)]
    best = least(candidates)
    return best[turn % len(best)]


def least(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those with the least expected wait, in whole engine steps, and of them those with the fewest sequences."""
    loads = [(it.waiting_tokens // STEP_TOKENS) * _MOST_SEQUENCES + it.sequences for it in candidates]
    least_load = min(loads)
    if loads.count(least_load) == 1:
        return [candidates[loads.index(least_load)]]
    return [it for it, load in zip(candidates, loads, strict=True) if load == least_load]
