"""Which replicas end first."""

from dataclasses import replace

import pytest
from fleets import NOW, actions, fleet, pod, wanted
from hypothesis import given
from hypothesis import strategies as st

from dp_vllm_operator.fleet import Fleet
from dp_vllm_operator.plan import needs_loads, plan
from dp_vllm_operator.replica import Replica
from dp_vllm_operator.scale_down import choose

KINDS = ("ready", "fresh", "cheap", "dear", "pending", "starting", "restarting", "unready", "waits", "gated")
ORDER = ("2:cheap", "2:waits", "2:pending", "2:starting", "1:ready", "2:ready", "2:dear")
"""The first of them ends first."""


@pytest.mark.parametrize("count", range(len(ORDER)))
def test_the_order(count: int) -> None:
    pods = fleet(" ".join(reversed(ORDER)))
    asked = Fleet.of(wanted(1), pods, NOW)
    ended = choose(count, pods, asked, {}).replicas
    assert [pod.number for pod in ended] == [len(ORDER) - 1 - place for place in range(count)]


def test_the_fewest_requests_then_the_youngest() -> None:
    pods = fleet("1:ready*4")
    loads = {"m-1-0": 3, "m-1-1": 1, "m-1-2": 3, "m-1-3": 9}
    ended = choose(2, pods, Fleet.of(wanted(2, 1), pods, NOW), loads).replicas
    assert [pod.number for pod in ended] == [1, 2]


@pytest.mark.parametrize(("least", "ended"), [(0, 1), (4, 3)])
def test_one_that_does_not_answer_counts_as_the_least_busy(least: int, ended: int) -> None:
    pods = fleet("1:ready*4")
    loads = {"m-1-0": 4, "m-1-1": least, "m-1-2": 9, "m-1-3": None if least else 5}
    assert [pod.number for pod in choose(1, pods, Fleet.of(wanted(3, 1), pods, NOW), loads).replicas] == [ended]


def test_of_pods_made_in_the_same_second_the_highest_number_ends() -> None:
    pods = [pod(number, 1, age=100, ready_seconds=50) for number in (4, 0, 2)]
    assert actions(plan(wanted(2, 1), pods, (), {}, NOW)) == "-4"


@pytest.mark.parametrize(
    ("pods", "expected"),
    [("1:cheap 1:starting", "-1"), ("1:cheap 1:ready", "-0"), ("1:cheap*2", "-1"), ("1:cheap*2 1:starting", "-1 -2")],
)
def test_the_last_one_that_serves_stays(pods: str, expected: str) -> None:
    assert actions(plan(wanted(1, 1), fleet(pods), (), {}, NOW)) == expected


@pytest.mark.parametrize(
    ("replicas", "pods", "numbers"),
    [
        (3, "1:ready*4", {0, 1, 2, 3}),
        (4, "1:ready*4", set()),
        (0, "1:ready*4", set()),
        (3, "1:ready*3 1:starting", set()),
        (2, "1:ready*3 1:starting", {0, 1, 2}),
        (2, "1:starting*3", set()),
        (2, "1:ready*2 1:cheap", set()),
    ],
)
def test_loads_matter_only_among_equals(replicas: int, pods: str, numbers: set[int]) -> None:
    assert {pod.number for pod in needs_loads(wanted(replicas, 1), fleet(pods), NOW)} == numbers


@st.composite
def fleets(draw: st.DrawFn) -> tuple[Replica, ...]:
    words = st.tuples(st.integers(1, 3), st.sampled_from(KINDS)).map(lambda pair: f"{pair[0]}:{pair[1]}")
    pods = fleet(" ".join(draw(st.lists(words, max_size=8))))
    return tuple(replace(pod, created_at=NOW - draw(st.integers(0, 5000))) for pod in pods)


@given(pods=fleets(), replicas=st.integers(0, 5), data=st.data())
def test_only_the_loads_that_are_asked_for_matter(
    pods: tuple[Replica, ...], replicas: int, data: st.DataObject
) -> None:
    asked = wanted(replicas)
    loads = {pod.name: data.draw(st.none() | st.integers(0, 3)) for pod in pods}
    needed = {pod.name: loads[pod.name] for pod in needs_loads(asked, pods, NOW)}
    assert plan(asked, pods, (), loads, NOW) == plan(asked, pods, (), needed, NOW)


@given(pods=fleets(), replicas=st.integers(1, 5), data=st.data())
def test_the_order_of_the_list_does_not_matter(pods: tuple[Replica, ...], replicas: int, data: st.DataObject) -> None:
    shuffled = data.draw(st.permutations(pods))
    first, second = (plan(wanted(replicas), order, (), {}, NOW) for order in (pods, shuffled))
    assert first == second


@given(pods=fleets(), replicas=st.integers(1, 5))
def test_somebody_goes_on_serving(pods: tuple[Replica, ...], replicas: int) -> None:
    ended = {delete.replica.uid for delete in plan(wanted(replicas), pods, (), {}, NOW).delete}
    serving = [pod.uid for pod in pods if pod.available(NOW)]
    assert not serving or set(serving) - ended
