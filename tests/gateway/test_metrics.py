"""What `/metrics` tells of requests, replicas and engines."""

import json
from collections.abc import Iterator
from pathlib import Path

import programs
import pytest
import scripted
import wire
from scripted import END, STREAM, Engine, event, said
from watched import Gateway, Scrape, gateway

from dp_vllm_gateway.call import Call
from dp_vllm_gateway.metrics import OTHER_ROUTE, Metrics

SCRAPE = (
    b"# HELP vllm:num_requests_running Running.\n# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running 2\n"
)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Engine, Gateway]]:
    """An engine, and a gateway that counts from one test to the next."""
    with scripted.engine() as engine, gateway(tmp_path_factory.mktemp("gateway"), engine) as running:
        yield engine, running


@pytest.fixture
def engine(both: tuple[Engine, Gateway]) -> Engine:
    both[0].script = scripted.FINE
    return both[0]


@pytest.fixture
def running(both: tuple[Engine, Gateway]) -> Iterator[Gateway]:
    yield both[1]
    both[1].wait_until_idle()


def test_requests_are_counted_by_route_status_and_replica(engine: Engine, running: Gateway) -> None:
    answer = {**said("fine", "stop"), "usage": {"prompt_tokens": 7, "completion_tokens": 3}}
    engine.script = scripted.saying(scripted.whole(200, answer))
    before = running.scrape()
    for _ in range(3):
        assert wire.complete(running.url).status == 200
    assert wire.ask(running.url, "POST", "/v1/completions", b"{").status == 400
    grown = running.scrape().since(before)
    route = "/v1/completions"
    assert grown("dp_vllm_requests_total", route=route, status="200", replica="0") == 3
    assert grown("dp_vllm_requests_total", route=route, status="400", replica="") == 1
    assert grown("dp_vllm_attempts_total") == 3
    assert grown("dp_vllm_retries_total") == 0
    assert grown("dp_vllm_prompt_tokens_total", replica="0") == 21
    assert grown("dp_vllm_completion_tokens_total", replica="0") == 9
    assert grown("dp_vllm_request_seconds_count", route=route) == 4
    assert grown("dp_vllm_request_seconds_bucket", route=route, le="+Inf") == 4


def test_the_process_and_its_memory_are_told(running: Gateway) -> None:
    scrape = running.scrape()
    assert scrape.value("process_resident_memory_bytes") > 1e6
    assert scrape.value("dp_vllm_body_bytes") == 0
    assert scrape.value("dp_vllm_endpoints_generation") == 1


def test_a_stream_counts_its_first_token_and_its_pieces(engine: Engine, running: Gateway) -> None:
    engine.script = scripted.saying(STREAM, event(said("a")), event(said("b", "stop")), event(b"[DONE]"), END)
    before = running.scrape()
    assert wire.complete(running.url, stream=True).body.endswith(b"data: [DONE]\n\n")
    grown = running.scrape().since(before)
    assert grown("dp_vllm_time_to_first_token_seconds_count", route="/v1/completions") == 1
    assert grown("dp_vllm_chunks_total", replica="0") >= 1
    assert grown("dp_vllm_broken_answers_total") == 0


def test_a_broken_stream_is_counted(engine: Engine, running: Gateway) -> None:
    engine.script = scripted.then_closing(STREAM, event(said("a")))
    before = running.scrape()
    assert b"error" in wire.complete(running.url, stream=True).body
    assert running.scrape().since(before)("dp_vllm_broken_answers_total", replica="0") == 1


def test_a_client_that_left_is_counted_as_499(engine: Engine, running: Gateway) -> None:
    engine.script = scripted.saying(STREAM, event(said("a")))
    body = json.dumps({"model": "demo/model", "prompt": "hello", "stream": True}).encode()
    with wire.line(running.url) as client:
        client.send(wire.request("POST", "/v1/completions", body))
        client.read_until(b'"a"')
        assert running.state()["in_flight"] == 1
        assert running.scrape().value("dp_vllm_replica_requests", replica="0") == 1
    programs.wait_until(
        lambda: running.scrape().value("dp_vllm_requests_total", status="499", replica="0") == 1, "it is counted"
    )


def test_paths_that_clients_make_up_are_one_route(engine: Engine, running: Gateway) -> None:
    before = running.scrape()
    for number in range(5):
        wire.ask(running.url, "GET", f"/made/up/{number}")
    wire.ask(running.url, "GET", "/v1/responses/resp_1")
    after = running.scrape()
    assert after.since(before)("dp_vllm_requests_total", route=OTHER_ROUTE) == 5
    assert "/v1/responses/{id}" in after.labels("dp_vllm_requests_total", "route")
    assert not [route for route in after.labels("dp_vllm_requests_total", "route") if "made" in route]


def test_a_retry_and_the_ejection_of_who_could_not_be_reached_are_counted(tmp_path: Path) -> None:
    with (
        scripted.engine() as first,
        scripted.engine() as second,
        gateway(tmp_path, first, second, flags=("--probe-seconds", "60")) as running,
    ):
        first.down()
        answers = [wire.complete(running.url) for _ in range(4)]
        assert [answer.status for answer in answers] == [200] * 4
        scrape = running.scrape()
    assert scrape.value("dp_vllm_retries_total") == 1
    assert scrape.value("dp_vllm_attempts_total") == 5
    assert scrape.value("dp_vllm_ejections_total", replica="0") == 1
    assert scrape.value("dp_vllm_ejections_total", replica="1") == 0
    assert scrape.value("dp_vllm_requests_total", replica="1", status="200") == 4


def test_the_endpoint_tells_its_metrics_with_a_key_only(tmp_path: Path) -> None:
    key = {"authorization": "Bearer right"}
    with (
        scripted.engine(metrics=SCRAPE) as engine,
        gateway(tmp_path, engine, flags=("--api-key", "right")) as running,
    ):
        assert wire.ask(running.url, "GET", "/metrics").status == 401
        answer = wire.ask(running.url, "GET", "/metrics", headers=key)
        assert wire.ask(running.url, "HEAD", "/metrics", headers=key).status == 200
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    scrape = Scrape(answer.body)
    assert scrape.value("dp_vllm_replica_available", replica="0") == 1
    assert scrape.value("vllm:num_requests_running", replica="0") == 2


def test_the_series_of_a_replica_that_is_gone_go_with_it(tmp_path: Path) -> None:
    with (
        scripted.engine(metrics=SCRAPE) as first,
        scripted.engine(metrics=SCRAPE) as second,
        gateway(tmp_path, first, second, flags=("--probe-seconds", "0.2")) as running,
    ):
        assert running.scrape().labels("vllm:num_requests_running", "replica") == {"0", "1"}
        first.down()
        programs.wait_until(
            lambda: running.scrape().labels("vllm:num_requests_running", "replica") == {"1"}, "they are gone"
        )
        assert running.scrape().value("dp_vllm_replica_available", replica="0") == 0


def test_what_was_sent_to_every_replica_is_counted_from_one_scrape_to_the_next(
    engine: Engine, running: Gateway
) -> None:
    for count in (1, 2):
        wire.ask(running.url, "POST", "/reset_prefix_cache", {})
        counted = running.scrape().value("dp_vllm_requests_total", replica="all", route="/reset_prefix_cache")
        assert counted == count


def call(replica: str, took_seconds: float) -> Call:
    ended = Call("id", "POST", "/v1/completions", 0.0, "/v1/completions")
    ended.status, ended.replica, ended.attempts, ended.ended_at = 200, replica, 1, took_seconds
    return ended


def test_counts_of_replicas_that_are_gone_are_forgotten_and_the_gateways_own_are_not() -> None:
    metrics = Metrics()
    for replica in ("", "0", "1"):
        metrics.record(call(replica, 1.0))
    metrics.keep({"1"})
    assert set(metrics.tallies) == {"", "1"}
    assert sum(metrics.times["/v1/completions"].request.counts) == 3


@pytest.mark.parametrize(("seconds", "bound"), [(0.0, 0.01), (0.01, 0.01), (0.011, 0.05), (7680.0, 7680.0)])
def test_a_time_is_counted_in_the_first_bucket_that_holds_it(seconds: float, bound: float) -> None:
    metrics = Metrics()
    metrics.record(call("0", seconds))
    histogram = metrics.times["/v1/completions"].request
    assert histogram.bounds[histogram.counts.index(1)] == bound


def test_a_time_beyond_all_bounds_is_counted_too() -> None:
    metrics = Metrics()
    metrics.record(call("0", 1e6))
    histogram = metrics.times["/v1/completions"].request
    assert histogram.counts[-1] == 1 and histogram.total == 1e6
