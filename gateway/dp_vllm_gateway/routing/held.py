"""Which of the requests that wait may go to an engine now, and to which. Pure.

An engine reads prompts in the order in which it got them. What it has not begun to read is better kept back: there a
short prompt can still go before a long one, and each can still go to whichever engine is free first. So an engine is
given only what keeps it busy, and a request is bound to it only when it is sent.
"""

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Final, Generic, TypeVar

import msgspec

from dp_vllm_gateway.facts import Facts
from dp_vllm_gateway.routing.choice import Choice
from dp_vllm_gateway.routing.fair import Entry, Line, Waiting
from dp_vllm_gateway.routing.load import BYTES_PER_TOKEN, Load
from dp_vllm_gateway.routing.remembered import Remembered

MOST_LOOKED_AT: Final = 64
"""Of those who wait, at a time: in a long line each event would else cost as much as the line is long."""

Candidate = TypeVar("Candidate", bound=Load)


class Prospect(msgspec.Struct, Generic[Candidate], gc=False):
    """An endpoint as it will be once those before have gone; a `Load`."""

    of: Candidate
    name: str
    waiting_tokens: int
    sequences: int
    handicap: int
    tokens_per_second: float
    remembered: Remembered
    unread: int
    """Tokens that it surely has not read: less than `waiting_tokens` where nobody tells."""
    places: int
    """How many more requests it may be given."""
    awaited: bool = False
    """One waits for it that is before the others, and would not fit: until it does nobody overtakes it."""

    def takes(self, tokens: int, most: float) -> bool:
        """Whether it may be given a prompt of which it has to read so many tokens."""
        return self.places > 0 and (not tokens or not self.awaited) and has_room(self.unread, tokens, most)

    def give(self, facts: Facts, tokens: int) -> None:
        """Take it to have one request more."""
        self.places -= 1
        self.unread += tokens
        self.count(facts, tokens)

    def count(self, facts: Facts, tokens: int) -> None:
        """Take one to wait for it before whoever comes now."""
        self.waiting_tokens += tokens
        self.sequences += facts.sequences


def has_room(unread: int, tokens: int, most: float) -> bool:
    """Whether an endpoint that has so much to read may be given more; one that has nothing to read always may."""
    return not unread or not tokens or unread + tokens <= most


def to_go(
    line: Line[Waiting],
    crowd: Sequence[Prospect[Candidate]],
    choose: Callable[[Sequence[Prospect[Candidate]], Facts], Choice[Prospect[Candidate]] | None],
    ahead_seconds: float,
) -> list[tuple[Entry[Waiting], Choice[Candidate]]]:
    """Who may go now, in order, and where to.

    Each in line is chosen an endpoint for as if all before it had gone. If that one has no room it waits for it: what
    is in its cache is worth that. An endpoint may have `ahead_seconds` of reading, and besides its part of what else
    waits: many prompts are read faster together, which is what counts when the line is long.
    """
    found, full, waits = [], False, line.unread
    for entry in islice(line.in_order(), MOST_LOOKED_AT):
        share = max(0, waits - entry.unread) / len(crowd)
        full = full or not any(it.takes(1, ahead_seconds * it.tokens_per_second + share) for it in crowd)
        if full and not line.cached:
            break
        if full and entry.unread:
            continue
        choice = choose(crowd, entry.facts)
        if choice is None:
            continue
        picked, tokens = choice.picked, entry.facts.tokens - choice.cached_tokens
        if picked.takes(tokens, ahead_seconds * picked.tokens_per_second + share):
            picked.give(entry.facts, tokens)
            waits -= entry.unread
            found.append((entry, _of(choice)))
        else:
            picked.count(entry.facts, tokens)
            picked.awaited = True
    return found


def entry(
    facts: Facts,
    candidates: Sequence[Load],
    now: float,
    waiting: Waiting,
    *,
    priority: int = 0,
    rank: int = 0,
    key: str = "",
    body_bytes: int = 0,
) -> Entry[Waiting]:
    """One who begins to wait for one of these. `now` in seconds. A prompt that was not read is charged by its body."""
    depth = max(it.remembered.depth(facts.blocks) for it in candidates)
    unread = facts.tokens - int(depth * facts.block_tokens)
    due = now + unread / max(it.tokens_per_second for it in candidates)
    charge = max(1, facts.tokens or body_bytes // BYTES_PER_TOKEN)
    return Entry(facts, unread, priority, key, due, waiting, rank, charge)


def _of(choice: Choice[Prospect[Candidate]]) -> Choice[Candidate]:
    return Choice(
        choice.picked.of, choice.reason, choice.cached_tokens, choice.views, depths=choice.depths, costs=choice.costs
    )
