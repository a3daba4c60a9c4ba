"""Rollouts that are stalled or paused: what is decided in one situation."""

import pytest
from fleets import DEADLINE_SECONDS, NOW, Case, cases, check, decided, wanted

from dp_vllm import names
from dp_vllm.spec import Strategy
from dp_vllm_operator.plan import RolloutState, Wanted

ROLLING, STALLED, PAUSED, DONE = RolloutState.ROLLING, RolloutState.STALLED, RolloutState.PAUSED, RolloutState.DONE
FOUND = NOW - 500
"""Since when the stall is on record."""


def stalled(replicas: int, fallback: int | None = 1, strategy: Strategy = Strategy.AUTO) -> Wanted:
    return wanted(replicas, fallback=fallback, stalled_at=FOUND, strategy=strategy)


@cases(
    Case("the old ones go on serving", wanted(3), "1:ready*3 2:late", "", STALLED),
    Case("it is on record", stalled(3), "1:ready*3 2:late", "", STALLED),
    Case("only on record", stalled(3), "1:ready*3", "", STALLED),
    Case("a lost one comes back old", stalled(3), "1:ready*2 1:ending 2:late", "+1:4", STALLED),
    Case("one that was drained for it comes back", wanted(3), "1:ready*2 2:late", "+1:3", STALLED),
    Case("the only one was drained for it", wanted(1), "2:late", "+1:1", STALLED),
    Case("the one that comes back starts", stalled(1), "2:late 1:starting", "", STALLED),
    Case("there is no room for both", stalled(1), "2:late 1:waits", "-0", STALLED),
    Case("not before it is on record", wanted(1), "2:late 1:waits", "", STALLED),
    Case("for whatever reason", stalled(1), "2:late 1:unbound", "-0", STALLED),
    Case("the quota is no matter of place", stalled(1), "2:late 1:gated", "", STALLED),
    Case("it holds no room", stalled(1), "2:stuck 1:waits", "", STALLED),
    Case("scaled up", stalled(5), "1:ready*3 2:late", "+1:4 +1:5", STALLED),
    Case("scaled down", stalled(2), "1:ready*3 2:late", "-2", STALLED),
    Case("one of several is kept", wanted(4), "1:ready*2 2:late*2", "-3 +1:4 +1:5", STALLED),
    Case("new ones that serve are kept", wanted(4), "1:ready*2 2:ready 2:late", "+1:4", STALLED),
    Case("new ones in time may still make it", wanted(4), "1:ready*2 2:starting 2:late", "+1:4", STALLED),
    Case("the one on a node is kept", wanted(4), "1:ready*2 2:stuck 2:late", "-2 +1:4 +1:5", STALLED),
    Case("drained, and no place for the new one", wanted(3), "1:ready*2 2:stuck", "+1:3", STALLED),
    Case("room is about to be made", wanted(3), "1:ready*2 2:stuck 1:ending", "", ROLLING),
    Case("nothing is better", wanted(3, fallback=None), "2:late*3", "", STALLED),
    Case("nothing else is known", wanted(3, fallback=None), "2:late*2", "+2:2", STALLED),
    Case("an old one that serves is good enough", wanted(3, fallback=None), "1:ready*2 2:late", "+1:3", STALLED),
    Case("the target is the fallback", wanted(3, fallback=2), "2:ready*2 2:late", "", STALLED),
    Case("undo", wanted(3, 1, fallback=2), "2:ready*2 1:late", "+2:3", STALLED),
    Case("old ones that do not run are left alone", stalled(3), "1:ready*2 1:restarting 2:late", "", STALLED),
    Case("it got Ready after all", stalled(3), "1:ready*3 2:ready", "-2", ROLLING),
    Case("another one did", stalled(3), "1:ready*2 2:late 2:ready", "", STALLED),
    Case("no more are wanted", wanted(2, stalled_at=NOW - 99), "2:ready*2", "", DONE),
    Case("more are wanted", wanted(3, stalled_at=NOW - 99), "2:ready*2", "+1:2", STALLED),
    Case("another target", wanted(3, 3), "1:ready*3 2:late", "-3", ROLLING),
)
def test_stalled(case: Case) -> None:
    check(case)


def test_only_a_replica_that_got_ready_since_ends_a_stall() -> None:
    before = wanted(3, stalled_at=NOW - 99)
    assert decided(before, "1:ready*2 2:ready").rollout is STALLED
    assert decided(wanted(3, stalled_at=NOW - 99.5), "1:ready*2 2:ready").rollout is ROLLING


def test_a_person_is_told_who_serves_and_how_to_try_again() -> None:
    message = decided(wanted(3), "1:ready*3 2:late").message
    assert "revision 2 was not Ready within 3600 seconds; revision 1 goes on serving" in message
    assert names.RESTART_ANNOTATION in message
    assert "serving" not in decided(wanted(3, fallback=None), "2:late*3").message


def test_quota_is_no_failure() -> None:
    assert decided(wanted(3), "1:ready*2 2:gated").rollout is RolloutState.WAITING_FOR_QUOTA


@pytest.mark.parametrize("deadline", [DEADLINE_SECONDS, DEADLINE_SECONDS + 1])
def test_the_deadline_is_the_users(deadline: float) -> None:
    asked = wanted(3, progress_deadline_seconds=deadline)
    state = decided(asked, "1:ready*3 2:late").rollout
    assert state is (STALLED if deadline == DEADLINE_SECONDS else ROLLING)


def paused(replicas: int, fallback: int | None = 1) -> Wanted:
    return wanted(replicas, paused=True, fallback=fallback)


@cases(
    Case("no step begins", paused(3), "1:ready*3", "", PAUSED),
    Case("in the middle", paused(3), "1:ready*2 2:ready", "", PAUSED),
    Case("a step ends as it began", paused(3), "1:ready*3 2:starting", "-3", PAUSED),
    Case("a lost one comes back", paused(3), "1:ready 2:ready 2:ending", "+1:3", PAUSED),
    Case("what most have", paused(4), "1:ready 2:ready*2", "+2:3", PAUSED),
    Case("what more of serve", paused(3), "1:restarting 2:ready", "+2:2", PAUSED),
    Case("scaled down", paused(1), "1:ready*2 2:ready", "-1 -0", PAUSED),
    Case("all are lost", paused(2), "1:ending*2", "+1:2 +1:3", PAUSED),
    Case("before the first", paused(2, fallback=None), "", "", PAUSED),
    Case("stalled too", paused(3), "1:ready*3 2:late", "-3", PAUSED),
    Case("a dead one", paused(2), "1:ready 1:failed", "-1 +1:2", PAUSED),
    Case("there is nothing to replace", paused(2), "2:ready*2", "", PAUSED),
)
def test_paused(case: Case) -> None:
    check(case)


@pytest.mark.parametrize(
    ("asked", "pods", "why"),
    [
        (stalled(3), "1:ready*2 2:late", "create 1 replica of revision 1: 1 of 3 missing"),
        (stalled(2), "1:ready*2 2:late*2", "delete m-2-3: revision 2 is given up for now"),
        (stalled(1), "1:ready*2 2:late", "delete m-1-1: 1 wanted"),
        (paused(4), "1:ready*2", "create 2 replicas of revision 1: 2 of 4 missing"),
        (paused(1), "1:ready*2", "delete m-1-1: 1 wanted"),
    ],
)
def test_a_plan_says_why(asked: Wanted, pods: str, why: str) -> None:
    assert decided(asked, pods).why == why


@pytest.mark.parametrize(
    ("pods", "words"),
    [("1:ready*2 2:ready", "paused: 2 of 3 replicas of an old revision"), ("", "paused: 0 of 0 replicas")],
)
def test_how_far_a_pause_found_it(pods: str, words: str) -> None:
    assert words in decided(paused(3), pods).message


def test_nothing_is_made_before_the_first_replica_of_a_paused_model() -> None:
    assert "none is made until rollout.paused is false" in decided(paused(2, fallback=None), "").message
