"""Whose request is next."""

from collections import Counter
from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from dp_vllm_gateway.facts import Facts
from dp_vllm_gateway.routing.fair import Entry, Line

REQUESTS = st.lists(
    st.tuples(st.integers(-2, 2), st.sampled_from("abc"), st.integers(0, 5_000), st.floats(0, 100)), max_size=40
)


def entry(number: int, priority: int, key: str, tokens: int, due: float = 0.0) -> Entry[int]:
    return Entry(Facts(tokens=tokens), tokens, priority, key, due, number)


def joined(line: Line[int], requests: Iterable[tuple[int, str, int] | tuple[int, str, int, float]]) -> list[Entry[int]]:
    entries = [entry(number, *request) for number, request in enumerate(requests)]
    for each in entries:
        line.join(each)
    return entries


def taken(line: Line[int], most: int = 1000) -> list[int]:
    """One after the other, as they are let go."""
    found: list[int] = []
    while line and len(found) < most:
        first = next(line.in_order())
        line.take(first)
        found.append(first.waiting)
    return found


@given(REQUESTS)
def test_everybody_s_turn_comes_once_the_lower_priority_first(requests: list[tuple[int, str, int, float]]) -> None:
    line: Line[int] = Line()
    joined(line, requests)
    assert line.unread == sum(tokens for _, _, tokens, _ in requests)
    order = taken(line)
    assert sorted(order) == list(range(len(requests)))
    assert [requests[number][0] for number in order] == sorted(priority for priority, *_ in requests)
    assert (len(line), line.unread, list(line.in_order())) == (0, 0, [])


@given(REQUESTS)
def test_the_order_that_is_foreseen_is_the_one_that_comes(requests: list[tuple[int, str, int, float]]) -> None:
    line: Line[int] = Line()
    joined(line, requests)
    foreseen = [each.waiting for each in line.in_order()]
    assert taken(line) == foreseen


@given(REQUESTS)
def test_of_one_key_the_first_due_is_the_first_and_of_those_the_first_to_come(
    requests: list[tuple[int, str, int, float]],
) -> None:
    line: Line[int] = Line()
    joined(line, requests)
    order = taken(line)
    for who in {(priority, key) for priority, key, *_ in requests}:
        own = [number for number in order if requests[number][:2] == who]
        assert own == sorted(own, key=lambda number: (requests[number][3], number))


def test_a_key_that_sends_much_waits_for_itself() -> None:
    line: Line[int] = Line()
    joined(line, [(0, "many", 100)] * 50 + [(0, "few", 100)] * 5)
    first = taken(line)[:10]
    assert sum(number >= 50 for number in first) == 5, "the five that came last are among the first ten"


def test_keys_get_the_same_number_of_tokens_not_of_requests() -> None:
    line: Line[int] = Line()
    requests = [(0, "long", 1_000)] * 20 + [(0, "short", 100)] * 200
    joined(line, requests)
    given_: Counter[str] = Counter()
    for number in taken(line)[:110]:
        given_[requests[number][1]] += requests[number][2]
    assert abs(given_["long"] - given_["short"]) <= 1_000


def test_a_key_that_was_silent_has_saved_nothing_up() -> None:
    line: Line[int] = Line()
    joined(line, [(0, "busy", 100)] * 30)
    taken(line, 20)
    for number in range(100, 130):
        line.join(entry(number, 0, "late", 100))
    order = taken(line)
    assert sum(number >= 100 for number in order[:10]) <= 6


def test_who_leaves_is_not_called_and_pays_nothing() -> None:
    line: Line[int] = Line()
    entries = joined(line, [(0, "a", 1), (0, "a", 500), (0, "a", 1), (0, "b", 100), (0, "b", 100)])
    line.leave(entries[1])
    line.leave(entries[1])
    assert taken(line) == [0, 3, 2, 4]
