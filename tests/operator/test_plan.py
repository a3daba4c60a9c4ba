"""What is decided about replicas of one revision: how many are made and ended, and in which words."""

import pytest
from fleets import NOW, Case, cases, check, decided, fleet, wanted

from dp_vllm_operator.backoff import Hold
from dp_vllm_operator.plan import Create, RolloutState, Wanted, plan

DONE, FIRST_START, SCALING = RolloutState.DONE, RolloutState.FIRST_START, RolloutState.SCALING
ROLLING, STALLED, QUOTA = RolloutState.ROLLING, RolloutState.STALLED, RolloutState.WAITING_FOR_QUOTA
FIRST = wanted(3, 1, fallback=None)
STEADY = wanted(3, 1)


@cases(
    Case("nothing is there", FIRST, "", "+1:0 +1:1 +1:2", FIRST_START),
    Case("some start", FIRST, "1:starting*2", "+1:2", FIRST_START),
    Case("all start", FIRST, "1:starting*3", "", FIRST_START),
    Case("all serve", STEADY, "1:ready*3", "", DONE),
    Case("one does not count yet", STEADY, "1:ready*2 1:fresh", "", SCALING),
    Case("a clock that is ahead holds nothing up", STEADY, "1:ready*2 1:ahead", "", DONE),
    Case("scaled up", wanted(5, 1), "1:ready*3", "+1:3 +1:4", SCALING),
    Case("scaled down", wanted(1, 1), "1:ready*3", "-2 -1", SCALING),
    Case("scaled to none", wanted(0), "1:ready*2 2:starting", "-0 -1 -2", SCALING),
    Case("none", wanted(0), "1:ending", "", DONE),
    Case("none and paused", wanted(0, paused=True), "1:ready", "-0", SCALING),
    Case("none and stalled", wanted(0, stalled_at=NOW - 1), "1:ready", "-0", SCALING),
    Case("one was evicted", STEADY, "1:ending 1:ready*2", "+1:3", SCALING),
    Case("a free number is taken first", STEADY, "1:ready - 1:ready 1:ending", "+1:1", SCALING),
    Case("revisions share the numbers", wanted(3), "2:ready - 1:failed 2:ready", "-2 +2:1", SCALING),
    Case("a pod failed", STEADY, "1:failed 1:ready*2", "-0 +1:3", SCALING),
    Case("a pod ended by itself", STEADY, "1:succeeded 1:ready*2", "-0 +1:3", SCALING),
    Case("a dead one that is ending", STEADY, "1:failed-ending 1:ready*2", "+1:3", SCALING),
    Case("waiting for quota", FIRST, "1:starting 1:gated*2", "", QUOTA),
    Case("a first start that takes too long", FIRST, "1:late*3", "", STALLED),
    Case("a first start without any place", FIRST, "1:stuck*3", "", STALLED),
)
def test_scaling(case: Case) -> None:
    check(case)


HELD = Hold(1, NOW + 10)


@cases(
    Case("it is not replaced", wanted(3, 1, hold=HELD), "1:failed 1:ready*2", "-0", SCALING),
    Case("others are made", wanted(5, 1, hold=HELD), "1:ready*2", "+1:2 +1:3", SCALING),
    Case("it is replaced in the end", wanted(3, 1, hold=Hold(1, NOW)), "1:ready*2", "+1:2", SCALING),
)
def test_after_a_death(case: Case) -> None:
    check(case)


def test_further_numbers_may_be_taken() -> None:
    planned = plan(wanted(2, 1), fleet("- 1:ready"), (0, 2), {}, NOW)
    assert planned.create == (Create(revision=1, number=3),)


@pytest.mark.parametrize(
    ("asked", "pods", "why"),
    [
        (STEADY, "1:ready*3", ""),
        (FIRST, "", "create 3 replicas of revision 1: 3 of 3 missing"),
        (wanted(3), "1:ready*3", "create 1 replica of revision 2: an old one is to be replaced"),
        (wanted(3), "1:ready*3 2:ready", "delete m-1-2: revision 2 has taken its place"),
        (wanted(2), "1:ready*3", "delete m-1-2: 2 wanted"),
        (wanted(3), "1:ready*3 2:blocked", "delete m-1-2: revision 2 needs its place"),
        (wanted(1, 1), "1:ready*2", "delete m-1-1: 1 wanted"),
        (
            STEADY,
            "1:failed 1:ready*2",
            "create 1 replica of revision 1: 1 of 3 missing; delete m-1-0: Failed (UnexpectedAdmissionError)",
        ),
        (wanted(0), "1:ready*3", "delete m-1-0, m-1-1, m-1-2: none wanted"),
        (wanted(0), "1:ready*5", "delete m-1-0, m-1-1, m-1-2 and 2 more: none wanted"),
    ],
)
def test_a_plan_says_why(asked: Wanted, pods: str, why: str) -> None:
    assert decided(asked, pods).why == why
