"""How long dead replicas stay without a replacement."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dp_vllm_operator.backoff import FIRST_SECONDS, FORGOTTEN_SECONDS, LONGEST_SECONDS, Failures, Hold

NOW = 1_000_000.0


def waits(failures: Failures, times: int, now: float = NOW) -> list[float]:
    """Each replacement dies as soon as it is made: how long each is held back."""
    seconds = []
    for number in range(times):
        hold = failures.note(f"uid-{number}-{now}", now)
        seconds.append(hold.until - now)
        now = hold.until
    return seconds


def test_nothing_is_held_without_a_failure() -> None:
    assert Failures().hold(NOW).held(NOW) == 0


def test_the_wait_doubles_up_to_a_limit() -> None:
    seconds = waits(Failures(), 2000)
    assert seconds[0] == FIRST_SECONDS
    assert all(after == min(before * 2, LONGEST_SECONDS) for before, after in pairwise(seconds))
    assert seconds[-1] == LONGEST_SECONDS


def test_the_replacement_comes_when_the_wait_is_over() -> None:
    failures = Failures()
    until = failures.note("a", NOW).until
    assert [failures.hold(at).held(at) for at in (NOW, until - 1, until, until + 1)] == [1, 1, 0, 0]


def test_a_pod_that_is_still_there_is_no_new_failure() -> None:
    failures = Failures()
    first = failures.note("a", NOW)
    assert failures.note("a", NOW + 5) == first
    assert failures.note("a", first.until) == Hold()
    assert failures.hold(first.until).held(first.until) == 0


def test_those_that_die_together_wait_together() -> None:
    failures = Failures()
    first = failures.note("a", NOW)
    assert failures.note("b", NOW + 1) == Hold(2, first.until)
    later = failures.note("c", first.until)
    assert later == Hold(1, first.until + 2 * FIRST_SECONDS)


@pytest.mark.parametrize(
    ("quiet", "wait"), [(FORGOTTEN_SECONDS - 1, 2 * FIRST_SECONDS), (FORGOTTEN_SECONDS, FIRST_SECONDS)]
)
def test_after_a_while_without_failure_all_is_forgotten(quiet: float, wait: float) -> None:
    failures = Failures()
    failures.note("a", NOW)
    at = NOW + quiet
    assert failures.note("b", at).until - at == wait


@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.floats(0, 700)), max_size=40))
def test_a_wait_is_bounded_and_never_prolonged(deaths: list[tuple[str, float]]) -> None:
    failures, now, before = Failures(), NOW, Hold()
    for uid, pause in deaths:
        now += pause
        hold = failures.note(uid, now)
        assert hold.until <= now + LONGEST_SECONDS
        assert not before.held(now) or hold.until == before.until
        before = hold
