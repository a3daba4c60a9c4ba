"""Why a request went where it went, in words and as a table. Pure: a gateway's decisions in, lines out."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from rich.text import Text

from dp_vllm.log_format import time_of


@dataclass(frozen=True, slots=True)
class Candidate:
    """A replica that could be chosen, as it was then."""

    replica: str
    expected_wait_seconds: float
    cached_tokens: int | None
    """None if prompts were not compared."""
    in_flight: int
    """Sequences."""
    handicap: int
    """Sequences that it was taken to have besides, being new."""
    cost_seconds: float | None
    """What was compared; None if it was no such sum."""


@dataclass(frozen=True, slots=True)
class Decision:
    """Where one attempt at a request was sent."""

    at: float
    """Seconds of the wall clock since 1970."""
    id: str
    """The request's."""
    model: str
    prompt_tokens: int
    """Estimated."""
    queued_seconds: float
    attempt: int
    """Counted from 1."""
    replica: str
    reason: str
    candidates: tuple[Candidate, ...]

    @property
    def picked(self) -> Candidate:
        """The candidate that was chosen."""
        return next(each for each in self.candidates if each.replica == self.replica)


_COST: Final = (
    "cost: the wait, less --prefix-weight times what the cached tokens save, and a step for each sequence in flight.",
    "The least wins, then the fewest in flight. It is counted in an engine's steps: what differs by less is equal.",
)

_ALWAYS: Final = {
    "home": "only this one has what the request goes on from",
    "round-robin": "its turn, whatever the load",
    "power-of-two": "the less loaded of two that chance named",
    "session": "where this session always goes",
    "consistent-hash": "where prompts that begin like this go, as long as it has no more than its share",
}
"""What the reasons mean that do not depend on numbers."""


def lines(decisions: Sequence[Decision]) -> Iterator[Text]:
    """A block for each decision."""
    for decision in decisions:
        yield Text.assemble(
            (f"{time_of(int(decision.at * 1000))}  ", "dim"),
            (decision.id, "bold"),
            f"  {decision.model or 'no model'}, prompt of about {_tokens(decision.prompt_tokens)}",
        )
        yield Text.assemble("to ", (f"replica {decision.replica}", "green"), f" ({decision.reason}): {why(decision)}")
        yield from _table(decision)
        yield Text()
    if any(decision.picked.cost_seconds is not None for decision in decisions):
        yield from (Text(line, "dim") for line in _COST)


def _tokens(count: int) -> str:
    return f"{count:,} token{'' if count == 1 else 's'}"


def why(decision: Decision) -> str:
    """The decision in words."""
    if decision.attempt > 1:
        return f"{_reason(decision)}; attempt {decision.attempt}, as the one before failed"
    if decision.queued_seconds:
        return f"{_reason(decision)}; every replica was full for {decision.queued_seconds:.2f} s before"
    return _reason(decision)


def _reason(decision: Decision) -> str:
    if decision.reason in _ALWAYS:
        return _ALWAYS[decision.reason]
    if len(decision.candidates) == 1:
        return "no other could be chosen"
    picked = decision.picked
    cached = picked.cached_tokens or 0
    fuller = [each.replica for each in decision.candidates if (each.cached_tokens or 0) > cached]
    if fuller:
        told = f"what {_and(fuller)} had cached of it was not worth the load there"
    elif cached:
        told = f"about {cached:,} of them were cached there"
        told += ", which was worth the wait" if _wait(picked) > min(map(_wait, decision.candidates)) else ""
    else:
        told = "the least to wait there"
    equal = sum(_rank(each) == _rank(picked) for each in decision.candidates)
    return f"{told}; {equal} were equal and take turns" if equal > 1 else told


def _rank(candidate: Candidate) -> tuple[float, int]:
    seconds = candidate.expected_wait_seconds if candidate.cost_seconds is None else candidate.cost_seconds
    return seconds, candidate.in_flight + candidate.handicap


def _wait(candidate: Candidate) -> float:
    """As it is shown."""
    return round(candidate.expected_wait_seconds, 2)


def _and(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _table(decision: Decision) -> Iterator[Text]:
    titles = ("replica", "wait s", "cached", "in flight", "cost s")
    rows = [titles, *map(_cells, decision.candidates)]
    shown = [place for place in range(len(titles)) if any(row[place] for row in rows[1:])]
    widths = [max(len(row[place]) for row in rows) for place in shown]
    for number, row in enumerate(rows):
        chosen = number > 0 and row[0] == decision.replica
        cells = [row[shown[0]].ljust(widths[0])]
        cells += [row[place].rjust(width) for place, width in zip(shown[1:], widths[1:], strict=True)]
        style = "green" if chosen else "" if number else "dim"
        yield Text(f"  {'*' if chosen else ' '} {'  '.join(cells)}", style)


def _cells(candidate: Candidate) -> tuple[str, ...]:
    """What there is none of is empty."""
    cached, cost = candidate.cached_tokens, candidate.cost_seconds
    return (
        candidate.replica,
        f"{_wait(candidate):.2f}",
        "" if cached is None else f"{cached:,}",
        f"{candidate.in_flight}" + (f" (+{candidate.handicap}, new)" if candidate.handicap else ""),
        "" if cost is None else f"{cost:.2f}",
    )
