"""Whose request is next."""

from collections import Counter
from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from dp_vllm_gateway.facts import Facts
from dp_vllm_gateway.routing.fair import Entry, KeyCounts, Line, rank_of

REQUESTS = st.lists(
    st.tuples(st.integers(-2, 2), st.sampled_from("abc"), st.integers(0, 5_000), st.floats(0, 100)), max_size=40
)


def entry(
    number: int, rank: int, key: str, tokens: int, due: float = 0.0, *, priority: int = 0, charge: int = 0
) -> Entry[int]:
    return Entry(Facts(tokens=tokens), tokens, priority, key, due, number, rank, charge or max(1, tokens))


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
def test_everybody_s_turn_comes_once_the_lower_rank_first(requests: list[tuple[int, str, int, float]]) -> None:
    line: Line[int] = Line()
    joined(line, requests)
    assert line.unread == sum(tokens for _, _, tokens, _ in requests)
    order = taken(line)
    assert sorted(order) == list(range(len(requests)))
    assert [requests[number][0] for number in order] == sorted(priority for priority, *_ in requests)
    assert (len(line), line.unread, list(line.in_order())) == (0, 0, [])


@given(REQUESTS, st.lists(st.integers(0, 39)))
def test_the_order_that_is_foreseen_is_the_one_that_comes(
    requests: list[tuple[int, str, int, float]], leaving: list[int]
) -> None:
    line: Line[int] = Line()
    entries = joined(line, requests[:20])
    taken(line, 3)
    entries += joined(line, requests[20:])
    for number in leaving:
        if number < len(entries):
            line.leave(entries[number])
    foreseen = [each.waiting for each in line.in_order()]
    assert taken(line) == foreseen


@given(REQUESTS)
def test_of_one_key_the_first_due_is_the_first_and_of_those_the_first_to_come(
    requests: list[tuple[int, str, int, float]],
) -> None:
    line: Line[int] = Line()
    joined(line, requests)
    order = taken(line)
    for who in {(rank, key) for rank, key, *_ in requests}:
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


@given(st.lists(st.tuples(st.integers(-9, 9), st.sampled_from("ab")), max_size=40))
def test_priorities_below_zero_order_one_key_s_requests_and_take_nothing_from_another_key(
    requests: list[tuple[int, str]],
) -> None:
    """Each key has had as many turns at any time as if all priorities below 0 were 0, but for one where keys tie."""
    orders = []
    for lowest in (-9, 0):
        line: Line[int] = Line()
        for number, (priority, key) in enumerate(requests):
            priority = max(lowest, priority)
            line.join(entry(number, rank_of(priority, outranks=False), key, 100, priority=priority))
        orders.append(taken(line))
    for end in range(len(requests)):
        turns = [sum(requests[number][1] == "a" for number in order[:end]) for order in orders]
        assert abs(turns[0] - turns[1]) <= 1
    for key in "ab":
        own = [number for number in orders[0] if requests[number][1] == key]
        assert own == sorted(own, key=lambda number: (requests[number][0], number))


def test_a_priority_that_outranks_goes_before_all_keys_and_one_above_zero_after_all() -> None:
    line: Line[int] = Line()
    for number, (priority, key, outranks) in enumerate([(0, "a", False), (5, "a", False), (-5, "b", True)]):
        line.join(entry(number, rank_of(priority, outranks=outranks), key, 1, priority=priority))
    assert taken(line) == [2, 0, 1]
    for number, priority in enumerate([10**30, 200, 100]):
        line.join(entry(number, rank_of(priority, outranks=False), "a", 1, priority=priority))
    assert taken(line) == [2, 1, 0], "there are few ranks, and the order is the same"


def test_a_prompt_that_was_not_read_is_paid_for_by_its_charge() -> None:
    line: Line[int] = Line()
    for number in range(20):
        line.join(entry(number, 0, "unread", 0, charge=1_000))
        line.join(entry(100 + number, 0, "read", 1_000))
    assert sum(number < 100 for number in taken(line)[:10]) == 5


@given(REQUESTS)
def test_the_last_one_of_a_key_is_the_one_whose_turn_comes_last(
    requests: list[tuple[int, str, int, float]],
) -> None:
    line: Line[int] = Line()
    joined(line, requests)
    for key in {key for _, key, *_ in requests}:
        own = [each for each in line.in_order() if each.key == key]
        assert line.last_of(key) is own[-1] and line.waiting_of(key) == len(own)


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.booleans())))
def test_the_crowding_key_is_one_of_those_with_the_most_and_has_more_than_who_comes(
    steps: list[tuple[str, bool]],
) -> None:
    counts, expected = KeyCounts(), Counter[str]()
    for key, comes in steps:
        if comes:
            counts.add(key)
            expected[key] += 1
        elif expected[key]:
            counts.remove(key)
            expected[key] -= 1
        most = max(expected.values(), default=0)
        for own in +expected:
            crowding = counts.crowding(own)
            assert (crowding is None) == (expected[own] == most)
            assert crowding is None or expected[crowding] == most
