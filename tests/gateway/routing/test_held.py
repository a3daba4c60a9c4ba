"""Who of those who wait may go, and where to."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dp_vllm.policy import PREFIX_WEIGHT
from dp_vllm_gateway.facts import Facts
from dp_vllm_gateway.routing import held, router
from dp_vllm_gateway.routing.choice import Choice
from dp_vllm_gateway.routing.fair import Line
from dp_vllm_gateway.routing.held import Prospect
from dp_vllm_gateway.routing.load import PREFILL_TOKENS_PER_SECOND
from dp_vllm_gateway.routing.remembered import Remembered

BLOCK = 1_000
"""Tokens of a block here."""

AHEAD_SECONDS = 0.2
AHEAD = int(AHEAD_SECONDS * PREFILL_TOKENS_PER_SECOND)
"""The same in tokens: 3,000."""


@dataclass(eq=False)
class Endpoint:
    """One that may be picked."""

    name: str
    waiting_tokens: int = 0
    sequences: int = 0
    handicap: int = 0
    tokens_per_second: float = PREFILL_TOKENS_PER_SECOND
    remembered: Remembered = field(default_factory=lambda: Remembered(10_000))

    def prospect(self, places: int = 1_000) -> "Prospect[Endpoint]":
        tokens = self.waiting_tokens
        loads = (self.name, tokens, self.sequences, self.handicap, self.tokens_per_second, self.remembered)
        return Prospect(self, *loads, unread=tokens, places=places)


def asked(tokens: int, *blocks: int) -> Facts:
    return Facts(stream=True, tokens=tokens, blocks=list(blocks), block_tokens=float(BLOCK))


def choose(crowd: Sequence[Prospect[Endpoint]], facts: Facts) -> Choice[Prospect[Endpoint]] | None:
    return router.by_prefix(crowd, facts, PREFIX_WEIGHT, 0, watched=True)


def waiting(endpoints: Sequence[Endpoint], *requests: Facts | tuple[Facts, float]) -> Line[int]:
    """These in line, each with the time at which it came."""
    line: Line[int] = Line()
    for number, request in enumerate(requests):
        facts, came = request if isinstance(request, tuple) else (request, 0.0)
        line.join(held.entry(facts, endpoints, came, number))
    return line


def gone(line: Line[int], endpoints: Sequence[Endpoint], *, places: int = 1_000, ahead: float = AHEAD_SECONDS) -> str:
    """Who goes where, as `0>a 2>b`."""
    crowd = [endpoint.prospect(places) for endpoint in endpoints]
    found = held.to_go(line, crowd, choose, ahead)
    return " ".join(f"{entry.waiting}>{choice.picked.name}" for entry, choice in found)


def test_an_engine_that_has_nothing_to_read_is_given_one_however_long() -> None:
    a = Endpoint("a")
    assert gone(waiting([a], asked(90_000)), [a]) == "0>a"


@pytest.mark.parametrize(
    ("reading", "lengths", "go"),
    [
        (1_000, [2_000], 1),
        (2_001, [1_000], 0),
        (2_000, [1_000], 1),
        (3_500, [1_000] * 4, 1),
        (90_000, [500] * 9, 0),
    ],
)
def test_an_engine_is_given_what_keeps_it_busy_and_as_much_as_waits(reading: int, lengths: list[int], go: int) -> None:
    a = Endpoint("a", reading)
    assert len(gone(waiting([a], *map(asked, lengths)), [a]).split()) == go


@pytest.mark.parametrize(
    ("lengths", "order"),
    [
        ([(30_000, 0.0), (500, 0.0)], [1, 0]),
        ([(30_000, 0.0), (500, 1.9)], [1, 0]),
        ([(30_000, 0.0), (500, 2.1)], [0, 1]),
        ([(500, 0.0), (500, 0.0)], [0, 1]),
    ],
)
def test_a_short_prompt_overtakes_a_long_one_for_as_long_as_that_takes_to_read(
    lengths: list[tuple[int, float]], order: list[int]
) -> None:
    line = waiting([Endpoint("a")], *[(asked(tokens), came) for tokens, came in lengths])
    assert [entry.waiting for entry in line.in_order()] == order


def test_what_is_in_a_cache_does_not_count_as_long() -> None:
    a = Endpoint("a")
    a.remembered.add([1, 2, 3, 4, 5, 6, 7])
    line = waiting([a, Endpoint("b")], asked(3_000), asked(8_000, 1, 2, 3, 4, 5, 6, 7, 8))
    assert [entry.waiting for entry in line.in_order()] == [1, 0]


def test_nobody_takes_a_request_from_the_engine_that_has_its_beginning_and_is_busy_for_a_moment() -> None:
    a, b = Endpoint("a", 9_000), Endpoint("b")
    a.remembered.add([1, 2, 3, 4])
    assert gone(waiting([a, b], asked(5_000, 1, 2, 3, 4, 5)), [a, b]) == ""
    assert gone(waiting([a, b], asked(5_000, 1, 2, 3, 4, 5), asked(2_000, 9)), [a, b]) == "1>b"


def test_who_would_wait_longer_than_that_is_worth_goes_elsewhere() -> None:
    a, b = Endpoint("a", 90_000), Endpoint("b")
    a.remembered.add([1, 2, 3, 4])
    assert gone(waiting([a, b], asked(5_000, 1, 2, 3, 4, 5)), [a, b]) == "0>b"


def test_what_goes_before_is_counted_where_it_goes() -> None:
    a, b = Endpoint("a"), Endpoint("b")
    assert gone(waiting([a, b], *[asked(20_000)] * 4), [a, b]) == "0>a 1>b"


def test_no_engine_is_given_more_requests_than_it_has_places() -> None:
    a, b = Endpoint("a"), Endpoint("b")
    assert gone(waiting([a, b], *[asked(10)] * 5), [a, b], places=1) == "0>a 1>b"


def test_a_request_without_a_prompt_waits_for_no_prompt() -> None:
    a = Endpoint("a", 90_000)
    assert gone(waiting([a], asked(0), asked(10)), [a]) == "0>a"


COMING = st.lists(st.tuples(st.integers(0, 40_000), st.integers(0, 3), st.integers(0, 5)), min_size=1, max_size=30)


@given(COMING, st.integers(1, 3), st.integers(1, 4))
def test_whoever_waits_goes_once_and_no_later_than_those_before_it_take(
    coming: list[tuple[int, int, int]], engines: int, places: int
) -> None:
    """Engines read one prompt after the other here; nobody waits longer than all prompts take and its own twice."""
    endpoints = [Endpoint(str(number)) for number in range(engines)]
    line: Line[int] = Line()
    reading: list[list[int]] = [[] for _ in endpoints]
    left, ended = dict(enumerate(coming)), list[int]()
    for _ in range(3 * len(coming) + 1):
        for number, (tokens, blocks, _) in list(left.items())[:2]:
            facts = asked(tokens, *range(1, min(blocks, tokens // BLOCK) + 1))
            line.join(held.entry(facts, endpoints, 0.0, number))
            del left[number]
        crowd = [endpoint.prospect(places - len(reading[int(endpoint.name)])) for endpoint in endpoints]
        crowd = [prospect for prospect in crowd if prospect.places > 0]
        for entry, choice in held.to_go(line, crowd, choose, AHEAD_SECONDS) if crowd and line else []:
            line.take(entry)
            endpoint = choice.picked
            reading[int(endpoint.name)].append(entry.facts.tokens - choice.cached_tokens)
            assert len(reading[int(endpoint.name)]) <= places
            endpoint.waiting_tokens += entry.facts.tokens - choice.cached_tokens
            endpoint.remembered.add(entry.facts.blocks)
            ended.append(entry.waiting)
        for endpoint in endpoints:
            if queue := reading[int(endpoint.name)]:
                endpoint.waiting_tokens -= queue.pop(0)
                assert endpoint.waiting_tokens >= 0
    assert sorted(ended) == list(range(len(coming))), "all have gone once each engine had read as many prompts as came"
    assert line.unread == 0
