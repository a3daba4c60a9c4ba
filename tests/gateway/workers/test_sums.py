"""One answer of several."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from dp_vllm_gateway.config import Limits, divided
from dp_vllm_gateway.state import GatewayState, ReplicaState
from dp_vllm_gateway.workers import sums
from dp_vllm_gateway.workers.news import Load, Standing
from dp_vllm_gateway.workers.parent import MOST_DELAY_SECONDS, delay_seconds

COUNTER = "dp_vllm_requests_total"
SERIES = st.dictionaries(st.sampled_from(["0", "1", "a b", 'q\\"q', "}"]), st.integers(0, 10), max_size=4)


def text_of(series: dict[str, int], **gauges: float) -> bytes:
    lines = [f"# HELP {COUNTER} Requests.", f"# TYPE {COUNTER} counter"]
    lines += [f'{COUNTER}{{replica="{name}"}} {float(value)}' for name, value in series.items()]
    for name, value in gauges.items():
        lines += [f"# HELP {name} A gauge.", f"# TYPE {name} gauge", f"{name} {value}"]
    return "\n".join([*lines, ""]).encode()


def values(text: bytes, name: str = COUNTER) -> dict[str, float]:
    found = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            if sample.name == name:
                found[sample.labels.get("replica", "")] = sample.value
    return found


@given(st.lists(SERIES, min_size=1, max_size=4))
def test_series_add_up(workers: list[dict[str, int]]) -> None:
    text = sums.total([text_of(series, dp_vllm_queue_requests=2) for series in workers])
    names = {name.replace('\\"', '"'): name for series in workers for name in series}
    assert values(text) == {plain: sum(series.get(name, 0) for series in workers) for plain, name in names.items()}
    assert values(text, "dp_vllm_queue_requests") == {"": 2 * len(workers)}
    assert text.count(b"# TYPE") == text.count(b"# HELP") == 2, "each family is described once"


@given(SERIES, SERIES)
def test_of_two_moments_the_greater_count_stays_and_gauges_go(one: dict[str, int], other: dict[str, int]) -> None:
    counted = [sums.counters(text_of(series, process_open_fds=9)) for series in (one, other)]
    assert b"process_open_fds" not in counted[0]
    assert sums.greatest(*counted) == sums.total(
        [text_of({**one, **{k: max(one.get(k, 0), v) for k, v in other.items()}})]
    )
    assert sums.greatest(b"", counted[0]) == counted[0]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("dp_vllm_endpoints_generation", 1),
        ("dp_vllm_replica_available", 1),
        ("dp_vllm_replica_ejected", 3),
        ("dp_vllm_endpoints_age_seconds", 3),
        ("dp_vllm_replica_requests", 4),
        ("process_open_fds", 4),
        ("process_start_time_seconds", 1),
    ],
)
def test_some_gauges_are_no_amounts(name: str, expected: float) -> None:
    assert values(sums.total([text_of({}, **{name: 3}), text_of({}, **{name: 1})]), name) == {"": expected}


def test_what_replicas_counted_that_are_gone_is_dropped() -> None:
    text = text_of({"0": 1, "gone": 2, "": 3, "all": 4}, dp_vllm_body_bytes=5)
    assert values(sums.of_replicas(text, {"0"})) == {"0": 1, "": 3, "all": 4}


def replica(in_flight: int, sequences: int, tokens: int) -> ReplicaState:
    return ReplicaState("h:1", "ready", True, True, False, in_flight, sequences, tokens, "")


def test_states_add_up_and_the_oldest_generation_counts() -> None:
    own = GatewayState(7, 3, {"0": replica(2, 4, 100), "1": replica(1, 1, 0)}, queued=1)
    others = [
        Standing(6, 2, 5, (Load("0", "1", 2, 3, 10), Load("gone", "1", 1, 1, 1))),
        Standing(8, 1, 0, (Load("0", "1", 1, 1, 1),)),
    ]
    together = sums.state(own, others)
    assert (together.generation, together.in_flight, together.queued) == (6, 6, 6)
    assert together.replicas == {"0": replica(5, 8, 111), "1": replica(1, 1, 0)}
    assert sums.state(own, []) == own


def test_limits_are_divided_and_what_one_request_may_is_not() -> None:
    four = divided(Limits(), 4)
    assert (four.max_queued_requests, four.max_buffered_bytes) == (1024, 256 << 20)
    assert divided(Limits(), 100).max_buffered_bytes == Limits().max_body_bytes
    assert divided(Limits(max_buffered_bytes=10, max_queued_requests=1), 3) == Limits(
        max_buffered_bytes=10, max_queued_requests=1
    )
    assert divided(Limits(), 1) == Limits()


def test_who_dies_early_again_and_again_is_started_ever_later() -> None:
    delays = [delay_seconds(early) for early in range(20)]
    assert delays[:2] == [0, 0], "the first death is no pattern"
    assert delays == sorted(delays) and 0 < delays[2] < 1
    assert delays[-1] == MOST_DELAY_SECONDS
