"""The decision whether a request is sent again, and the budget that bounds such decisions."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dp_vllm_gateway import retry
from dp_vllm_gateway.deaths import FORGET_SECONDS, MOST, Deaths
from dp_vllm_gateway.retry import Attempted, Budget, Failure, Verdict, after

AGAIN, GIVE_UP, POISON = Verdict.AGAIN, Verdict.GIVE_UP, Verdict.POISON


@pytest.mark.parametrize("failure", [failure for failure in Failure if failure in retry.NOT_STARTED])
@pytest.mark.parametrize("replayable", [True, False])
def test_what_no_engine_began_may_always_be_sent_again(failure: Failure, replayable: bool) -> None:
    for replays, deaths in itertools.product(range(3), range(3)):
        assert after(Attempted(failure, replays, deaths, replayable)) is AGAIN


@pytest.mark.parametrize(
    ("failure", "replays", "deaths", "replayable", "verdict"),
    [
        (Failure.DIED, 0, 1, True, AGAIN),
        (Failure.DIED, 1, 1, True, GIVE_UP),
        (Failure.DIED, 0, 1, False, GIVE_UP),
        (Failure.DIED, 0, 2, True, POISON),
        (Failure.DIED, 1, 2, False, POISON),
        (Failure.ENGINE_DEAD, 0, 1, True, AGAIN),
        (Failure.ENGINE_DEAD, 1, 2, True, POISON),
        (Failure.ABORTED, 0, 0, True, AGAIN),
        (Failure.ABORTED, 1, 0, True, GIVE_UP),
        (Failure.ABORTED, 0, 0, False, GIVE_UP),
        (Failure.TIMEOUT, 0, 0, True, GIVE_UP),
        (Failure.GARBAGE, 0, 0, True, GIVE_UP),
        (Failure.STOPPED, 0, 0, True, GIVE_UP),
    ],
)
def test_what_an_engine_had_is_sent_again_once(
    failure: Failure, replays: int, deaths: int, replayable: bool, verdict: Verdict
) -> None:
    assert after(Attempted(failure, replays, deaths, replayable)) is verdict


def test_every_failure_has_a_rule() -> None:
    ruled = {Failure.DIED, Failure.ENGINE_DEAD, Failure.ABORTED, Failure.TIMEOUT, Failure.GARBAGE, Failure.STOPPED}
    assert set(Failure) == ruled | retry.NOT_STARTED


# the budget


def test_the_reserve_moves_the_requests_of_a_dead_replica_at_once() -> None:
    budget = Budget(now=0.0)
    assert sum(budget.withdraw(0.0) for _ in range(1000)) == Budget.RESERVE


def test_an_empty_budget_fills_with_time_and_with_requests() -> None:
    budget = Budget(now=0.0)
    while budget.withdraw(0.0):
        pass
    assert sum(budget.withdraw(1.0) for _ in range(100)) == Budget.PER_SECOND
    for _ in range(100):
        budget.deposit()
    assert sum(budget.withdraw(1.0) for _ in range(100)) == pytest.approx(100 * Budget.SHARE, abs=1)


@given(st.lists(st.tuples(st.sampled_from(["request", "retry"]), st.floats(0, 10)), max_size=200))
def test_never_more_retries_than_were_earned(steps: list[tuple[str, float]]) -> None:
    budget = Budget(now=100.0)
    now, requests, retries = 100.0, 0, 0
    for step, seconds in steps:
        now += seconds
        if step == "request":
            budget.deposit()
            requests += 1
        else:
            retries += budget.withdraw(now)
    earned = Budget.RESERVE + requests * Budget.SHARE + (now - 100.0) * Budget.PER_SECOND
    assert retries <= earned + 1e-6


# deaths


def test_a_body_is_counted_once_for_each_engine_life() -> None:
    deaths = Deaths()
    assert deaths.of(b"x", 0.0) == 0
    assert deaths.record(b"x", "0 a 1", 0.0) == 1
    assert deaths.record(b"x", "0 a 1", 1.0) == 1
    assert deaths.record(b"x", "0 a 2", 2.0) == 2
    assert (deaths.of(b"x", 3.0), deaths.of(b"y", 3.0)) == (2, 0)


def test_it_is_forgotten_after_a_while_and_when_it_was_answered() -> None:
    deaths = Deaths()
    deaths.record(b"x", "0", 0.0)
    deaths.record(b"y", "0", 10.0)
    assert deaths.of(b"x", FORGET_SECONDS - 1) == 1
    assert deaths.of(b"x", FORGET_SECONDS) == 0
    assert deaths.of(b"y", FORGET_SECONDS) == 1
    deaths.answered(b"y")
    assert deaths.of(b"y", FORGET_SECONDS) == 0


def test_only_so_many_are_remembered() -> None:
    deaths = Deaths()
    for number in range(MOST + 10):
        deaths.record(b"%d" % number, "0", 0.0)
    assert deaths.of(b"9", 0.0) == 0
    assert deaths.of(b"10", 0.0) == 1


def test_no_body_is_not_counted() -> None:
    deaths = Deaths()
    for life in "abc":
        assert deaths.record(b"", life, 0.0) == 0
    assert deaths.of(b"", 0.0) == 0
