"""When an engine is taken for hung: by what it shows at several moments."""

import ast
from pathlib import Path

import pytest

from dp_vllm.engine import hang
from dp_vllm.engine.hang import Look, Standstill

OPERATOR = Path(__file__).parents[2] / "operator" / "dp_vllm_operator" / "in_pod" / "engine_life.py"

METRICS = """\
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0"} 2.0
vllm:num_requests_waiting{engine="0"} 1.0
vllm:num_requests_waiting_by_reason{engine="0",reason="capacity"} 1.0
vllm:kv_cache_usage_perc{engine="0"} 0.25
vllm:iteration_tokens_total_count{engine="0"} 7.0
"""
COUNTERS = 'vllm:kv_cache_usage_perc{engine="0"} 0.25\nvllm:iteration_tokens_total_count{engine="0"} 7.0'


@pytest.mark.parametrize(
    ("load", "metrics", "expected"),
    [
        pytest.param(1, METRICS, Look(requests=3, counters=COUNTERS), id="the queues know of more"),
        pytest.param(5, METRICS, Look(requests=5, counters=COUNTERS), id="/load knows of more"),
        pytest.param(None, METRICS, Look(requests=3, counters=COUNTERS), id="/load says nothing"),
        pytest.param(5, "", Look(requests=5), id="no metrics"),
        pytest.param(5, METRICS.replace("kv_cache", "x"), Look(requests=5), id="one is missing"),
        pytest.param(1, METRICS.replace(" 2.0", " NaN"), Look(requests=1, counters=COUNTERS), id="no number"),
    ],
)
def test_what_an_engine_shows(load: int | None, metrics: str, expected: Look) -> None:
    assert hang.look(load, metrics) == expected


def test_one_that_has_requests_and_moves_nothing_stands_still() -> None:
    busy = Look(requests=1, counters="7")
    seen = hang.follow(None, busy, 10.0)
    seen = hang.follow(seen, Look(requests=3, counters="7"), 20.0)
    assert seen == Standstill(Look(requests=3, counters="7"), 10.0)
    assert seen.look.says(180) == "it hung: it had requests (3), and its core did nothing for 180 s"


def test_one_that_does_not_answer_stands_still_from_then_on() -> None:
    seen = hang.follow(Standstill(Look(requests=1, counters="7"), 5.0), Look(answers=False), 10.0)
    assert seen == Standstill(Look(answers=False), 10.0)
    assert hang.follow(seen, Look(answers=False), 20.0) == seen
    assert seen.look.says(15) == "it did not answer for 15 s"


@pytest.mark.parametrize(
    "look",
    [
        pytest.param(Look(), id="idle, without metrics"),
        pytest.param(Look(counters="7"), id="idle"),
        pytest.param(Look(requests=1), id="without metrics nothing is known"),
    ],
)
def test_all_is_well(look: Look) -> None:
    assert hang.follow(Standstill(Look(requests=1, counters="7"), 5.0), look, 10.0) is None


def test_one_that_moves_begins_anew() -> None:
    seen = hang.follow(Standstill(Look(requests=1, counters="7"), 5.0), Look(requests=1, counters="8"), 10.0)
    assert seen is not None and seen.since == 10.0


def test_the_rule_is_that_of_the_operators_liveness_probe() -> None:
    names = ("COUNTERS", "QUEUES", "CANARY")
    assigned = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in ast.parse(OPERATOR.read_text()).body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id in names
    }
    assert [assigned[name] for name in names] == [hang.COUNTERS, hang.QUEUES, hang.CANARY]
