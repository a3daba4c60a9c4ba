"""Which endpoint a request goes to: a pure decision over a snapshot of the pool."""

import enum
from collections.abc import Sequence
from typing import Final, Protocol, TypeVar

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


class Load(Protocol):
    """What one decision sees of an endpoint that may be picked."""

    @property
    def waiting_tokens(self) -> int:
        """Prompt tokens that were given to it and not yet begun to be answered."""

    @property
    def sequences(self) -> int:
        """Sequences in flight, each to its last byte."""


_ROUND_ROBIN: Final = Policy.ROUND_ROBIN
_STEPS_PER_TOKEN: Final = 1 / (PREFILL_TOKENS_PER_SECOND * STEP_SECONDS)

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
    best: list[Candidate] = []
    wait = sequences = 0
    for candidate in candidates:
        its_wait = int(candidate.waiting_tokens * _STEPS_PER_TOKEN)
        its_sequences = candidate.sequences
        if best and (its_wait > wait or (its_wait == wait and its_sequences > sequences)):
            continue
        if not best or its_wait < wait or its_sequences < sequences:
            best = [candidate]
            wait, sequences = its_wait, its_sequences
        else:
            best.append(candidate)
    return best
