"""How old replicas are replaced: what is decided in one situation."""

from dataclasses import replace

import pytest
from fleets import DEADLINE_SECONDS, NOW, SURGE_SECONDS, UNBOUND, Case, actions, cases, check, decided, fleet, wanted

from dp_vllm.spec import Strategy
from dp_vllm_operator.backoff import Hold
from dp_vllm_operator.plan import RolloutState, Wanted, needs_loads, plan

DONE, ROLLING, SCALING = RolloutState.DONE, RolloutState.ROLLING, RolloutState.SCALING
QUOTA, UNSCHEDULABLE = RolloutState.WAITING_FOR_QUOTA, RolloutState.SURGE_UNSCHEDULABLE
SURGE, DRAIN = Strategy.SURGE, Strategy.DRAIN
HELD = Hold(1, NOW + 10)


@cases(
    Case("it begins with one more", wanted(3), "1:ready*3", "+2:3", ROLLING),
    Case("the new one starts", wanted(3), "1:ready*3 2:starting", "", ROLLING),
    Case("the new one does not count yet", wanted(3), "1:ready*3 2:fresh", "", ROLLING),
    Case("the new one has taken a place", wanted(3), "1:ready*3 2:ready", "-2", ROLLING),
    Case("an old one is ending", wanted(3), "1:ready*2 1:ending 2:ready", "", ROLLING),
    Case("a node never lets one go", wanted(3), "1:ready*2 1:never-ending 2:ready", "+2:4", ROLLING),
    Case("the next one", wanted(3), "1:ready*2 - 2:ready", "+2:2", ROLLING),
    Case("the last one", wanted(3), "1:ready 2:ready*3", "-0", ROLLING),
    Case("it is over", wanted(3), "2:ready*3", "", DONE),
    Case("a new one is not Ready any more", wanted(3), "1:ready*2 2:unready", "", ROLLING),
    Case("old ones that do not run go first", wanted(3), "1:ready 1:starting 1:pending", "-2 -1 +2:3 +2:4", ROLLING),
    Case("all old ones are broken", wanted(3), "1:restarting*3", "-2 -1 -0 +2:3 +2:4 +2:5", ROLLING),
    Case("one that is Ready serves, whatever else is said", wanted(2), "1:odd*2", "+2:2", ROLLING),
    Case("one that runs may serve", wanted(3), "1:ready 1:unready*2", "+2:3", ROLLING),
    Case("one that runs goes first", wanted(3), "1:unready 1:ready*2 2:ready", "-0", ROLLING),
    Case("one that runs waits for its step", wanted(3), "1:ready*2 1:unready 2:starting", "", ROLLING),
    Case("only one goes in a step", wanted(3), "1:restarting*2 1:ready 2:starting", "-1", ROLLING),
    Case("none goes for one that starts", wanted(3), "1:restarting*2 2:starting", "", ROLLING),
    Case("a third revision", wanted(3, 3), "1:ready*3 2:starting", "-3", ROLLING),
    Case("a third revision, a moment later", wanted(3, 3), "1:ready*3 2:ending", "", ROLLING),
    Case("a third revision, and the second serves", wanted(3, 3), "1:ready*2 2:ready 3:ready", "-2", ROLLING),
    Case("undo", wanted(3, 1, fallback=2), "2:ready*2 1:ready", "+1:3", ROLLING),
    Case("undo of what never ran", wanted(3, 1), "1:ready*3 2:starting", "-3", ROLLING),
    Case("scaled up in a step", wanted(5), "1:ready*3 2:starting", "+2:4", ROLLING),
    Case("scaled down in a step", wanted(2), "1:ready*3 2:starting", "-2", ROLLING),
    Case("scaled down by many in a step", wanted(1), "1:ready*3 2:starting*2 2:ready", "-4 -2 -1 -0", ROLLING),
    Case("the one that starts is kept", wanted(2), "1:ready*2 2:stuck 2:starting", "-2", ROLLING),
    Case("scaled up before the first step", wanted(5), "1:ready*3", "+2:3 +2:4", ROLLING),
    Case("a lost one comes back new", wanted(3), "1:ready*2 1:ending", "+2:3", ROLLING),
    Case("the price does not turn a rollout round", wanted(2), "1:ready*2 2:cheap", "-1", ROLLING),
)
def test_one_more_is_made_first(case: Case) -> None:
    surging = replace(case.wanted, strategy=SURGE)
    assert check(case) == check(case._replace(wanted=surging))


@cases(
    Case("an old one ends first", wanted(3, strategy=DRAIN), "1:ready*3", "-2 +2:3", ROLLING),
    Case("the new one starts", wanted(3, strategy=DRAIN), "1:ready*2 1:ending 2:starting", "", ROLLING),
    Case("the new one was not made", wanted(3, strategy=DRAIN), "1:ready*2 1:ending", "+2:3", ROLLING),
    Case("the next one", wanted(3, strategy=DRAIN), "1:ready*2 - 2:ready", "-1 +2:2", ROLLING),
    Case("one that is not Ready goes first", wanted(3, strategy=DRAIN), "1:unready 1:ready*2", "-0 +2:3", ROLLING),
    Case("whatever it costs", wanted(3, strategy=DRAIN), "1:dear-unready 1:ready*2", "-0 +2:3", ROLLING),
    Case("the only one goes too", wanted(1, strategy=DRAIN), "1:ready", "-0 +2:1", ROLLING),
    Case("one more was made before", wanted(3, strategy=DRAIN), "1:ready*3 2:waits", "-2", ROLLING),
    Case("it only waited to be allowed to", wanted(1, strategy=DRAIN), "1:ready 2:blocked", "-0", ROLLING),
    Case("one that waited too long is made anew", wanted(1, strategy=DRAIN), "1:ready 2:stuck", "-0 -1 +2:2", ROLLING),
    Case("the quota needs an old one's place", wanted(3, strategy=DRAIN), "1:ready*3 2:gated", "-2", QUOTA),
    Case("one more has got a place all the same", wanted(3, strategy=DRAIN), "1:ready*3 2:starting", "", ROLLING),
    Case("something ends anyway", wanted(3, strategy=DRAIN), "1:ready*3 2:waits 1:ending", "", ROLLING),
)
def test_drain(case: Case) -> None:
    check(case)


@cases(
    Case("an old one makes room", wanted(3), "1:ready*3 2:blocked", "-2", ROLLING),
    Case("not at once", wanted(3), "1:ready*3 2:waits", "", ROLLING),
    Case("the new one keeps waiting", wanted(3), "1:ready*2 1:ending 2:blocked", "", ROLLING),
    Case("one that is not Ready makes room", wanted(3), "1:ready*2 1:unready 2:blocked", "-2", ROLLING),
    Case("never two at a time", wanted(3), "1:ready*2 2:blocked", "", ROLLING),
    Case("the only one stays", wanted(1), "1:ready 2:blocked", "", UNSCHEDULABLE),
    Case("the only one stays, for ever", wanted(1), "1:ready 2:stuck", "", UNSCHEDULABLE),
    Case("one of two goes", wanted(2), "1:ready*2 2:blocked", "-1", ROLLING),
    Case("one old one does not free enough", wanted(3), "1:ready*3 2:blocked-of-2", "", UNSCHEDULABLE),
    Case("however long it waits", wanted(3), "1:ready*3 2:stuck-of-2", "", UNSCHEDULABLE),
    Case("a volume claim is unbound", wanted(3), "1:ready*3 2:unbound", "", ROLLING),
    Case("the only one, and a volume claim is unbound", wanted(1), "1:ready 2:unbound", "", ROLLING),
    Case("it lacks something else", wanted(3), "1:ready*3 2:blocked-by-cpu", "", UNSCHEDULABLE),
    Case("it waits for quota", wanted(3), "1:ready*3 2:gated", "", QUOTA),
    Case("the only one waits for quota", wanted(1), "1:ready 2:gated", "", QUOTA),
    Case("something ends anyway", wanted(3), "1:ready*3 2:blocked 1:ending", "", ROLLING),
    Case("the scale-down makes room", wanted(2), "1:ready*3 2:blocked", "-2", ROLLING),
    Case("scaled up where there is no room", wanted(4), "1:ready*3 2:blocked", "", ROLLING),
    Case("one does not run, and makes room", wanted(3), "1:ready*2 1:restarting 2:blocked", "-2", ROLLING),
)
def test_auto_without_room(case: Case) -> None:
    check(case)


@cases(
    Case("it waits", wanted(3, strategy=SURGE), "1:ready*3 2:blocked", "", UNSCHEDULABLE),
    Case("for ever", wanted(3, strategy=SURGE), "1:ready*3 2:stuck", "", UNSCHEDULABLE),
    Case("one that does not run makes room", wanted(3, strategy=SURGE), "1:ready*2 1:starting 2:stuck", "-2", ROLLING),
)
def test_surge_without_room(case: Case) -> None:
    check(case)


@pytest.mark.parametrize(
    ("asked", "pods", "advice"),
    [
        (wanted(1), "1:ready 2:blocked", "set rollout.strategy: Drain to accept downtime"),
        (wanted(1, strategy=SURGE), "1:ready 2:blocked", "set rollout.strategy: Drain to accept downtime"),
        (
            wanted(3, strategy=SURGE),
            "1:ready*3 2:blocked",
            "set rollout.strategy: Auto to let one old replica end first",
        ),
        (wanted(3, strategy=SURGE), "1:ready*3 2:blocked-by-cpu", "set rollout.strategy: Drain to let one old"),
        (wanted(3), "1:ready*3 2:blocked-by-cpu", "set rollout.strategy: Drain to let one old replica end first"),
        (wanted(3), "1:ready*3 2:blocked-of-2", "it asks for more than one old replica frees"),
    ],
)
def test_a_person_is_told_what_to_do(asked: Wanted, pods: str, advice: str) -> None:
    message = decided(asked, pods).message
    assert advice in message
    assert fleet(pods)[-1].unscheduled_message.rstrip(".") in message


@pytest.mark.parametrize(
    ("asked", "pods", "words"),
    [
        (wanted(3), "2:ready*3", "3 of 3 replicas of revision 2 serve"),
        (wanted(3), "1:ready*2 2:ready", "1 of 3 replicas of revision 2 serve"),
        (wanted(3), "1:ready*3 2:unbound", f"; m-2-3 has no place: {UNBOUND.rstrip('.')}"),
        (wanted(3), "1:ready*3 2:starting", "0 of 3 replicas of revision 2 serve"),
        (wanted(3), "1:ready*3 2:gated", "; m-2-3 waits for quota (a scheduling gate)"),
        (wanted(3, hold=HELD), "2:ready*2", "; one that died is replaced after a while"),
    ],
)
def test_how_far_it_is(asked: Wanted, pods: str, words: str) -> None:
    assert decided(asked, pods).message.endswith(words)


@cases(
    Case("no step begins", wanted(3, hold=HELD), "1:ready*3", "", ROLLING),
    Case("nobody ends for one who is not made", wanted(3, hold=HELD, strategy=DRAIN), "1:ready*3", "", ROLLING),
    Case("the one that died was the new one", wanted(3, hold=HELD), "1:ready*3 2:failed", "-3", ROLLING),
    Case("it is tried again", wanted(3, hold=Hold(1, NOW)), "1:ready*3", "+2:3", ROLLING),
)
def test_after_a_death(case: Case) -> None:
    check(case)


@pytest.mark.parametrize(
    ("asked", "pods", "seconds"),
    [
        (wanted(3), "2:ready*3", None),
        (wanted(3), "1:ready*3 2:fresh", 1),
        (wanted(3), "1:ready*3 2:waits", 1),
        (wanted(3), "1:ready*3 2:blocked", DEADLINE_SECONDS - SURGE_SECONDS),
        (wanted(3), "1:ready*3 2:starting", DEADLINE_SECONDS - 50),
        (wanted(3), "1:ready*3 2:gated-lately", None),
        (wanted(3, paused=True), "1:starting*3", None),
        (wanted(3), "2:ready*3 2:failed", None),
        (wanted(3), "1:ready*2 1:ending 2:ready", 300),
        (wanted(3, hold=HELD), "1:ready*3", 10),
        (wanted(3), "2:ready*2 2:unready", DEADLINE_SECONDS - 50),
    ],
)
def test_when_time_alone_may_change_the_plan(asked: Wanted, pods: str, seconds: float | None) -> None:
    assert decided(asked, pods).look_again_seconds == seconds


def test_the_least_busy_of_equals_is_replaced() -> None:
    pods = fleet("1:ready*3 1:unready 2:ready*2")
    asked = wanted(5)
    assert [pod.number for pod in needs_loads(asked, pods, NOW)] == []
    ready = fleet("1:ready*3 2:ready")
    asked = wanted(3)
    assert {pod.number for pod in needs_loads(asked, ready, NOW)} == {0, 1, 2}
    assert actions(plan(asked, ready, (), {"m-1-0": 7, "m-1-1": 2, "m-1-2": 5}, NOW)) == "-1"
