"""Whose request is next."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from dp_vllm_gateway.routing.fair import Line, Place

REQUESTS = st.lists(st.tuples(st.integers(-2, 2), st.sampled_from("abc"), st.integers(0, 5_000)), max_size=40)


def joined(line: Line[int], requests: list[tuple[int, str, int]]) -> list[Place]:
    places = []
    for number, (priority, key, tokens) in enumerate(requests):
        places.append(line.place(priority, key, tokens))
        line.join(places[-1], number)
    return places


def all_of(line: Line[int]) -> list[int]:
    return [number for _ in range(len(line)) if (number := line.next()) is not None]


@given(REQUESTS)
def test_everybody_s_turn_comes_once_the_lower_priority_first(requests: list[tuple[int, str, int]]) -> None:
    line: Line[int] = Line()
    joined(line, requests)
    order = all_of(line)
    assert sorted(order) == list(range(len(requests)))
    assert [requests[number][0] for number in order] == sorted(priority for priority, _, _ in requests)
    assert line.next() is None


@given(REQUESTS)
def test_the_requests_of_one_key_keep_their_order(requests: list[tuple[int, str, int]]) -> None:
    line: Line[int] = Line()
    joined(line, requests)
    order = all_of(line)
    for who in {(priority, key) for priority, key, _ in requests}:
        own = [number for number in order if requests[number][:2] == who]
        assert own == sorted(own)


def test_a_key_that_sends_much_waits_for_itself() -> None:
    line: Line[int] = Line()
    joined(line, [(0, "many", 100)] * 50 + [(0, "few", 100)] * 5)
    first = all_of(line)[:10]
    assert sum(number >= 50 for number in first) == 5, "the five that came last are among the first ten"


def test_keys_get_the_same_number_of_tokens_not_of_requests() -> None:
    line: Line[int] = Line()
    requests = [(0, "long", 1_000)] * 20 + [(0, "short", 100)] * 200
    joined(line, requests)
    given_: Counter[str] = Counter()
    for number in all_of(line)[:110]:
        given_[requests[number][1]] += requests[number][2]
    assert abs(given_["long"] - given_["short"]) <= 1_000


def test_a_key_that_was_silent_has_saved_nothing_up() -> None:
    line: Line[int] = Line()
    joined(line, [(0, "busy", 100)] * 30)
    for _ in range(20):
        line.next()
    for number in range(100, 130):
        line.join(line.place(0, "late", 100), number)
    order = all_of(line)
    assert sum(number >= 100 for number in order[:10]) <= 6


def test_who_leaves_is_not_called() -> None:
    line: Line[int] = Line()
    joined(line, [(0, "a", 1)] * 4)
    line.leave(1)
    line.leave(99)
    assert all_of(line) == [0, 2, 3]


def test_one_who_had_a_turn_in_vain_has_the_next_one_too() -> None:
    line: Line[int] = Line()
    places = joined(line, [(0, "a", 10), (0, "a", 10)])
    assert line.next() == 0
    line.join(places[0], 0)
    assert all_of(line) == [0, 1]
