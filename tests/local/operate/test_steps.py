"""How far a change is, by what is seen of a run; and in which order replicas are restarted."""

from dataclasses import dataclass
from typing import Any

import pytest
from run_samples import SERVING

from dp_vllm.endpoints import State
from dp_vllm.errors import BadSettings
from dp_vllm.local import standing
from dp_vllm.local.operate import steps
from dp_vllm.local.operate.look import Counts, Look, read_counts
from dp_vllm.local.operate.report import state_of
from dp_vllm.local.plan import Then
from dp_vllm.local.probe import GatewayState, ReplicaState
from dp_vllm.local.resize import Resize, free_numbers, resize
from dp_vllm.spec import MOST_REPLICAS

BOOM = standing.End("exit status 1", "the disk is full", "", 1.0, None)


@dataclass(frozen=True, slots=True)
class One:
    """A replica, as far as it matters."""

    state: State = State.READY
    starts: int = 1
    ordered: Then | None = None
    used: bool = True
    in_flight: int = 0
    last_end: standing.End | None = None
    pid: int | None = 1
    message: str = ""
    models: tuple[str, ...] = ()


def look(*ones: One, stopping: bool = False, gateway_generation: int = 5) -> Look:
    replicas = tuple(_replica(str(number), one) for number, one in enumerate(ones))
    run = standing.Run(
        name="8000",
        model="m",
        engine="sim",
        endpoint="",
        supervisor_pid=1,
        seconds=9,
        stopping=stopping,
        generation=5,
        gateway=SERVING,
        replicas=replicas,
    )
    known = {str(number): ReplicaState(one.in_flight, one.used) for number, one in enumerate(ones)}
    return Look(run, GatewayState(gateway_generation, 0, known))


def _replica(name: str, one: One) -> standing.Replica:
    told: dict[str, Any] = {key: getattr(one, key) for key in One.__slots__ if key not in ("used", "in_flight")}
    return standing.Replica(
        **told,
        name=name,
        ready_seconds=None,
        starting_seconds=None,
        failures=0,
        stays_down=False,
        log="",
        gpus=(),
        worst_link=None,
        address="",
        drain_seconds=290.4,
    )


DRAINING = One(State.DRAINING, ordered=Then.START, in_flight=3)


@pytest.mark.parametrize(
    ("one", "words", "done", "failed"),
    [
        (DRAINING, "draining, 3 in flight, 290 s left", False, False),
        (One(State.DOWN, ordered=Then.START), "ending", False, False),
        (One(State.STARTING, starts=2), "starting", False, False),
        (
            One(State.STARTING, starts=2, message="loading weights, 40 %"),
            "starting (loading weights, 40 %)",
            False,
            False,
        ),
        (One(starts=2, used=False), "ready, soon to be used", False, False),
        (One(starts=2), "serves", True, False),
        (One(State.DOWN, starts=2, last_end=BOOM), "exit status 1: the disk is full", False, True),
        (One(State.STARTING, starts=3, last_end=BOOM), "exit status 1: the disk is full", False, True),
        (One(State.DRAINING, ordered=Then.STAY_DOWN), "somebody ordered otherwise meanwhile", False, True),
    ],
)
def test_a_restart_is_through_when_another_life_serves(one: One, words: str, done: bool, failed: bool) -> None:
    assert steps.come(look(one), "0", starts=1) == (words, done, failed)


def test_what_the_gateway_says_of_an_older_set_of_replicas_counts_for_nothing() -> None:
    assert not steps.come(look(One(starts=2), gateway_generation=4), "0", starts=1).done


def test_a_new_replica_of_an_old_name_is_awaited_like_any_other() -> None:
    assert steps.come(look(One(State.STARTING, starts=7)), "0", starts=7).words == "starting"


@pytest.mark.parametrize(
    ("one", "words", "done", "failed"),
    [
        (One(State.DRAINING, ordered=Then.STAY_DOWN, in_flight=1), "draining, 1 in flight, 290 s left", False, False),
        (One(State.DOWN, ordered=Then.STAY_DOWN), "ending", False, False),
        (One(State.DOWN, ordered=Then.STAY_DOWN, pid=None), "down", True, False),
        (One(State.STARTING), "somebody ordered otherwise meanwhile", False, True),
    ],
)
def test_a_drained_replica_is_down_when_nothing_of_it_runs(one: One, words: str, done: bool, failed: bool) -> None:
    assert steps.rest(look(one), "0") == (words, done, failed)


def test_one_that_leaves_is_gone_when_the_run_has_none_of_its_name() -> None:
    assert steps.leave(look(), "0").done
    assert not steps.leave(look(One(State.DOWN, ordered=Then.LEAVE)), "0").done
    assert steps.leave(look(One()), "0").failed


@pytest.mark.parametrize("step", [steps.rest, steps.leave, lambda seen, name: steps.come(seen, name, 1)])
def test_nothing_is_awaited_in_a_run_that_ends(step: Any) -> None:
    assert step(look(One(State.DRAINING, ordered=Then.STAY_DOWN), stopping=True), "0").words == "the run is being ended"


def test_a_roll_begins_with_those_that_do_not_serve_and_spares_those_that_rest() -> None:
    seen = look(One(), One(State.DOWN, used=False), One(State.DOWN, ordered=Then.STAY_DOWN, used=False), One())
    assert steps.order_of_roll(seen) == ("1", "0", "3")
    assert steps.order_of_roll(seen, ("3", "2", "3")) == ("2", "3")


def test_a_roll_does_not_take_the_last_one_that_serves_while_another_should() -> None:
    broken = One(State.DOWN, used=False, last_end=BOOM)
    assert steps.objection(look(One(), broken), "0").startswith("no other replica serves its model now")
    assert steps.objection(look(One(), broken), "1") == "", "it does not serve"
    assert steps.objection(look(One()), "0") == "", "there is no other"
    assert steps.objection(look(One(), One()), "0") == ""
    of_two_models = look(One(models=("a",)), One(models=("b",)), One(State.DOWN, used=False, models=("a",)))
    assert steps.objection(of_two_models, "0"), "the other model's does not help"


@pytest.mark.parametrize(
    ("ones", "state"),
    [
        ([One(), One()], "ready"),
        ([One(), One(State.DOWN, ordered=Then.STAY_DOWN, used=False)], "ready"),
        ([One(), One(State.STARTING, used=False)], "partly"),
        ([One(State.STARTING, used=False), One(State.DOWN, used=False)], "starting"),
        ([One(State.DOWN, used=False)], "down"),
    ],
)
def test_a_run_in_one_word(ones: list[One], state: str) -> None:
    assert state_of(look(*ones)) == state
    assert state_of(look(*ones, stopping=True)) == "stopping"


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [(3, Resize()), (5, Resize(add=2)), (1, Resize(leave=("1", "2")))],
)
def test_the_last_ones_leave_first(wanted: int, expected: Resize) -> None:
    assert resize(["0", "1", "2", "3"], {"3"}, wanted) == expected


def test_a_run_without_replicas_is_refused_with_the_way_to_end_it() -> None:
    with pytest.raises(BadSettings, match="-dp: 0 replicas cannot serve; to end the run, press Ctrl-C"):
        resize(["0"], set(), 0)


def test_new_replicas_get_the_lowest_free_numbers() -> None:
    assert free_numbers(["0", "2", "5"], 3) == (1, 3, 4)


def test_counts_are_summed_by_replica() -> None:
    metrics = b"""# HELP dp_vllm_requests_total Requests
dp_vllm_requests_total{route="/v1/chat/completions",status="200",replica="0"} 3.0
dp_vllm_requests_total{route="/v1/completions",status="500",replica="0"} 1.0
dp_vllm_requests_total{route="other",status="404",replica=""} 7.0
vllm:generation_tokens_total{replica="1",engine="0",model_name="a b} c"} 1.2e+03
vllm:num_requests_waiting{replica="1",engine="0",model_name="m"} 2.0
vllm:num_requests_waiting_by_reason{replica="1",engine="0",reason="capacity"} 9.0
"""
    counts = read_counts(metrics)
    assert counts["0"] == Counts(requests=4)
    assert counts["1"] == Counts(generated_tokens=1200, waiting=2)


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-Inf", "-1", "1e400", "1e308", "x", "9" * 5000])
def test_no_sample_is_beyond_what_can_be_counted(value: str) -> None:
    sample = f'vllm:num_requests_waiting{{replica="1"}} {value}\n'.encode()
    assert 0 <= read_counts(sample * 2)["1"].waiting <= 2 << 53


def test_no_more_replicas_are_ordered_than_a_model_may_have() -> None:
    for wanted in (MOST_REPLICAS + 1, 10**20):
        with pytest.raises(BadSettings, match="at most 1,000 are"):
            resize(["0"], set(), wanted)
