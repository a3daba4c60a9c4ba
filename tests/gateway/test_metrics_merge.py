"""The engines' metrics, merged: nothing is lost, every sample has its replica, and nothing that Prometheus refuses."""

import math
from pathlib import Path

import programs
import pytest
import wire
from hypothesis import example, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from dp_vllm_gateway.engine_metrics import WANTED, merge

Series = tuple[str, frozenset[tuple[str, str]]]


def series(text: bytes, replica: str | None = None) -> dict[Series, float]:
    """Every sample that the parser finds; `replica` is added to the labels of each."""
    added = {} if replica is None else {"replica": replica}
    return {
        (sample.name, frozenset((sample.labels | added).items())): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def wanted(found: dict[Series, float]) -> dict[Series, float]:
    return {key: value for key, value in found.items() if key[0].encode().startswith(WANTED)}


def families(text: bytes) -> list[str]:
    """The names in the order of their TYPE lines."""
    return [line.split()[2] for line in text.decode().splitlines() if line.startswith("# TYPE ")]


LABEL_VALUES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)


@st.composite
def scrapes(draw: st.DrawFn) -> bytes:
    """What an engine might say, written by the library that engines write it with."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    running = Gauge("vllm:num_requests_running", 'Running,\n"now".', ["model_name"], registry=registry)
    for value in draw(st.lists(LABEL_VALUES, max_size=3)):
        running.labels(value).set(draw(st.floats(allow_nan=False)))
    Counter("http_requests", "Without labels.", registry=registry).inc(draw(st.integers(0, 10**12)))
    times = Histogram("vllm:e2e_request_latency_seconds", "Times.", ["engine", "model_name"], registry=registry)
    times.labels("0", draw(LABEL_VALUES)).observe(draw(st.floats(0, 1e9)))
    return generate_latest(registry)


@given(st.dictionaries(LABEL_VALUES, scrapes(), min_size=1, max_size=3))
def test_every_sample_comes_back_with_its_replica_and_nothing_else_changed(given: dict[str, bytes]) -> None:
    expected: dict[Series, float] = {}
    for replica, scrape in given.items():
        expected |= wanted(series(scrape, replica))
    merged = merge(given)
    assert series(merged) == expected
    assert len(families(merged)) == len(set(families(merged)))


PIECES = st.sampled_from(
    [
        b"# HELP vllm:a An a.\n",
        b"# TYPE vllm:a counter\n",
        b"# TYPE vllm:b unknown\n",
        b"# TYPE vllm:h histogram\n",
        b"# UNIT vllm:a seconds\n",
        b"# EOF\n",
        b"#no comment\n",
        b"# HELP\n",
        b"# TYPE vllm:a\n",
        b"vllm:a 1\n",
        b"vllm:a{} 2.5\n",
        b"vllm:a_total 3 1700000000\n",
        b'vllm:a{x="1",} +Inf\n',
        b'vllm:b{replica="7",x="a,replica="} 4\n',
        b'vllm:b{x="{}\\n\\"\\\\"}\t5e-07\n',
        b'vllm:h_bucket{le="1"} 5 # {trace_id="x"} 0.5\n',
        b"vllm:h_count 5\r\n",
        b"process_cpu_seconds_total 9\n",
        b'vllm:b{x="',
        b'"} 1\n',
        b"vllm:a one\n",
        b"\xff\x00",
        b"\n",
        b"{",
    ]
)


@settings(max_examples=200)
@given(st.dictionaries(st.text(max_size=3), st.lists(PIECES | st.binary(max_size=8)).map(b"".join), max_size=3))
@example({"0": b"vllm:a 1", "\udc80": b"vllm:a 1"})
def test_whatever_an_engine_says_the_merged_text_can_be_read(given: dict[str, bytes]) -> None:
    merged = merge(given)
    assert merged == b"" or merged.endswith(b"\n")
    names = set(families(merged))
    assert len(families(merged)) == len(names)
    for name, labels in series(merged):
        assert name.encode().startswith(WANTED)
        assert "replica" in dict(labels)


def test_odd_lines_cost_only_themselves() -> None:
    scrape = b"""# HELP vllm:a Text
# TYPE vllm:a gauge
vllm:a{x="1"} 1
this is no sample
vllm:a{x="2"} 2 1700000000000
vllm:a{x="3",replica="own"} 3 # {trace_id="y"} 1
# EOF"""
    merged = merge({"r": scrape})
    assert merged.splitlines() == [
        b"# HELP vllm:a Text",
        b"# TYPE vllm:a gauge",
        b'vllm:a{replica="r",x="1"} 1',
        b'vllm:a{replica="r",x="2"} 2',
        b'vllm:a{replica="r",x="3",exported_replica="own"} 3',
    ]


def test_samples_of_one_family_stand_together_under_one_description() -> None:
    scrape = b"# HELP vllm:%b Text\n# TYPE vllm:%b gauge\nvllm:%b 1\n"
    merged = merge({"0": scrape.replace(b"%b", b"a") + scrape.replace(b"%b", b"b"), "1": scrape.replace(b"%b", b"a")})
    assert merged.splitlines() == [
        b"# HELP vllm:a Text",
        b"# TYPE vllm:a gauge",
        b'vllm:a{replica="0"} 1',
        b'vllm:a{replica="1"} 1',
        b"# HELP vllm:b Text",
        b"# TYPE vllm:b gauge",
        b'vllm:b{replica="0"} 1',
    ]


def test_samples_without_a_description_are_kept() -> None:
    assert series(merge({"0": b"vllm:a 1\nother 2\n"})) == {("vllm:a", frozenset({("replica", "0")})): 1.0}


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-Inf", "1e-09", "1.7952451525676942e+09", "0"])
def test_each_way_of_writing_a_number_is_known(value: str) -> None:
    (found,) = series(merge({"0": f"vllm:a {value}\n".encode()})).values()
    assert found == float(value) or math.isnan(found)


def test_what_the_simulated_engine_says_is_merged_whole(tmp_path: Path) -> None:
    with programs.sim(tmp_path) as engine:
        assert wire.complete(engine.url, max_tokens=2).status == 200
        scrape = wire.ask(engine.url, "GET", "/metrics").body
    merged = merge({"0": scrape, "1": scrape})
    expected = wanted(series(scrape, "0")) | wanted(series(scrape, "1"))
    assert len(expected) > 500
    assert series(merged) == expected
    assert b"process_" not in merged
