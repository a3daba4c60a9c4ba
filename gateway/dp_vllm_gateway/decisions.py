"""The last decisions, for whoever asks why a request went where it went. Never a prompt or a key.

Every request pays for what is kept, hardly anybody reads it: what a decision saw is kept as it is, and made into words
and seconds when it is asked for.
"""

from collections import deque
from dataclasses import dataclass
from itertools import zip_longest
from typing import Final

from dp_vllm_gateway.call import Call
from dp_vllm_gateway.facts import Facts
from dp_vllm_gateway.member import Member
from dp_vllm_gateway.routing.choice import Choice, View
from dp_vllm_gateway.routing.router import seconds_of

MOST: Final = 256
"""Decisions that are kept; the oldest goes first. A replica that is gone is kept with the decisions that saw it."""

MOST_PER_SECOND: Final = 200.0
"""Where there are more for long, some are left out: what a decision saw costs as much as the decision, and the last
ones kept would all be of one moment."""

LONGEST: Final = 100
"""Characters of a model's name, which the client chooses."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A replica that could be chosen, as it was then."""

    replica: str
    expected_wait_seconds: float
    """Until it would have begun to read the prompt."""
    cached_tokens: int | None
    """Of the prompt's, estimated; None if prompts were not compared."""
    in_flight: int
    """Sequences."""
    handicap: int
    """Sequences that it was taken to have besides, because it had just become available."""
    cost_seconds: float | None
    """The sum that was compared, in whole engine steps; None if there was none."""


@dataclass(frozen=True, slots=True)
class Decision:
    """Where one attempt at a request was sent, and what that was chosen from."""

    at: float
    """Seconds of the wall clock since 1970."""
    id: str
    """The request's."""
    model: str
    prompt_tokens: int
    """Estimated."""
    queued_seconds: float
    """How long it waited for a replica with room before."""
    attempt: int
    """Counted from 1."""
    replica: str
    reason: str
    candidates: list[Candidate]


_Kept = tuple[float, str, str, int, float, float, int, Choice[Member]]
"""When, request id, model, tokens, tokens of a block, seconds in the queue, attempt, choice."""


class Decisions:
    """Owns the last decisions."""

    def __init__(self) -> None:
        self._kept: deque[_Kept] = deque(maxlen=MOST)
        self._room = float(MOST)
        self._since = 0.0

    def wants(self, now: float) -> bool:
        """Whether the next decision is to be kept. `now` in seconds of a monotonic clock."""
        room = self._room + (now - self._since) * MOST_PER_SECOND
        self._since = now
        if room < 1:
            self._room = room
            return False
        self._room = min(room, MOST) - 1
        return True

    def record(self, now: float, call: Call, facts: Facts, choice: Choice[Member]) -> None:
        """Keep the decision for the attempt that `call` is at. `now` is the wall clock, in seconds."""
        model = call.model[:LONGEST]
        queued, attempt = call.queued_seconds, call.attempts
        self._kept.append((now, call.id, model, facts.tokens, facts.block_tokens, queued, attempt, choice))

    def told(self) -> list[Decision]:
        """All that are kept, the oldest first."""
        return [_told(kept) for kept in self._kept]


def _told(kept: _Kept) -> Decision:
    at, request_id, model, tokens, block_tokens, queued_seconds, attempt, choice = kept
    seen = zip_longest(choice.views, choice.depths, choice.costs)
    return Decision(
        at=at,
        id=request_id,
        model=_printable(model),
        prompt_tokens=tokens,
        queued_seconds=queued_seconds,
        attempt=attempt,
        replica=choice.picked.name,
        reason=choice.reason,
        candidates=[_candidate(view, depth, cost, block_tokens) for view, depth, cost in seen],
    )


def _candidate(view: View, depth: int | None, cost: int | None, block_tokens: float) -> Candidate:
    endpoint, waiting_tokens, tokens_per_second, sequences, handicap = view
    return Candidate(
        replica=endpoint.name,
        expected_wait_seconds=waiting_tokens / tokens_per_second,
        cached_tokens=None if depth is None else int(depth * block_tokens),
        in_flight=sequences,
        handicap=handicap,
        cost_seconds=None if cost is None else seconds_of(cost),
    )


def _printable(name: str) -> str:
    """A client's word without anything that a terminal takes for a command, or that is no UTF-8."""
    return name if name.isprintable() else name.encode("unicode_escape").decode()
