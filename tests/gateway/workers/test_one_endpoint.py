"""Whichever worker a client meets: each knows what went through the other."""

import json
from collections.abc import Iterator
from contextlib import ExitStack

import crew
import programs
import pytest
import scripted
import watched
import wire
from crew import Crew
from scripted import END, FINE, STREAM, Asked, Engines, Peer, event, said, whole

STREAMED = json.dumps({"model": "demo/model", "prompt": "hello", "stream": True, "n": 3}).encode()


@pytest.fixture(scope="module")
def running(both_engines: Engines, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crew]:
    directory = tmp_path_factory.mktemp("gateway")
    with crew.crew(directory, *both_engines, flags=("--probe-seconds", "0.2")) as gateway:
        yield gateway


@pytest.fixture
def pair(running: Crew, engines: Engines) -> Iterator[Crew]:
    yield running
    running.wait_until_idle()


def begin(url: str) -> wire.Line:
    """A stream that goes on until its engine ends it."""
    line = wire.Line(url)
    line.send(wire.request("POST", "/v1/completions", STREAMED))
    line.read_until(b'"a"')
    return line


def test_what_is_in_flight_through_one_counts_for_the_other(pair: Crew, engines: Engines) -> None:
    for engine in engines:
        engine.script = scripted.saying(STREAM, event(said("a")))
    first, second = pair.workers()
    with ExitStack() as lines:
        for worker in (first, second, first, second):
            with pair.only(worker):
                lines.callback(begin(pair.url).close)
        for worker in (first, second):
            with pair.only(worker):
                state = pair.state()
                assert state["in_flight"] == 4
                per_replica = [(it["in_flight"], it["sequences"]) for it in state["replicas"].values()]
                assert per_replica == [(2, 6), (2, 6)], "each worker chose the replica that the other had not"
                with wire.line(pair.url) as line:
                    line.send(wire.request("GET", "/metrics"))
                    scrape = watched.Scrape(line.answer().body)
                assert scrape.value("dp_vllm_replica_requests") == 2, "this one's own: the other does not answer"
                assert scrape.value("dp_vllm_workers") == 1
        assert pair.scrape().value("dp_vllm_replica_sequences") == 12
    pair.wait_until_idle()
    pair.wait_until_all_know()
    assert all(replica["sequences"] == 0 for replica in pair.state()["replicas"].values())


def test_the_beginning_of_a_prompt_that_went_through_one_is_found_by_the_other(pair: Crew) -> None:
    first, second = pair.workers()
    for number, (one, other) in enumerate([(first, second), (second, first)] * 2):
        prompt = f"{number} " + "All of this has been said before. " * 300
        with pair.only(one):
            sent_to = wire.complete(pair.url, prompt=prompt).replica
        with pair.only(other):
            again = wire.complete(pair.url, prompt=prompt + " And more.")
            assert (again.replica, again.headers["x-dp-vllm-reason"][:8]) == (sent_to, "prefix 0")


def test_emptied_caches_are_empty_for_the_other(pair: Crew) -> None:
    first, second = pair.workers()
    prompt = "This is soon forgotten. " * 300
    with pair.only(first):
        wire.complete(pair.url, prompt=prompt)
        assert wire.complete(pair.url, prompt=prompt).headers["x-dp-vllm-reason"].startswith("prefix")
    with pair.only(second):
        assert wire.ask(pair.url, "POST", "/reset_prefix_cache").status == 200
    with pair.only(first):
        assert wire.complete(pair.url, prompt=prompt).headers["x-dp-vllm-reason"] == "least-load"


def test_a_response_is_found_by_the_other(pair: Crew, engines: Engines) -> None:
    def store(peer: Peer, asked: Asked) -> None:
        response = asked.target.rpartition("/")[2] if asked.method == "GET" else f"resp_{len(engines[0].asked)}_x"
        peer.send(whole(200, {"id": response, "object": "response"}))

    for engine in engines:
        engine.script = store
    first, second = pair.workers()
    for one, other in [(first, second), (second, first)] * 2:
        with pair.only(one):
            made = wire.ask(pair.url, "POST", "/v1/responses", {"input": "x"})
        with pair.only(other):
            for _ in range(2):
                assert wire.ask(pair.url, "GET", f"/v1/responses/{made.json()['id']}").replica == made.replica


def test_a_change_that_stays_is_repeated_by_the_other(pair: Crew, engines: Engines) -> None:
    first, second = pair.workers()
    with pair.only(first):
        assert (
            wire.ask(pair.url, "POST", "/v1/load_lora_adapter", {"lora_name": "sql", "lora_path": "/x"}).status == 200
        )
    engine = engines[0]
    with pair.only(second):
        engine.down()
        programs.wait_until(lambda: not pair.state()["replicas"]["0"]["healthy"], "it is seen to be gone")
        engine.asked.clear()
        engine.up()
        programs.wait_until(lambda: pair.state()["replicas"]["0"]["healthy"], "it is back")
        assert [asked.target for asked in engine.asked] == ["/v1/load_lora_adapter"]


def test_what_both_count_adds_up(pair: Crew, engines: Engines) -> None:
    for engine in engines:
        engine.script = FINE
    before = pair.scrape()
    first, second = pair.workers()
    for worker, count in ((first, 1), (second, 2)):
        with pair.only(worker):
            for _ in range(count):
                assert wire.complete(pair.url).status == 200
    scrape = pair.scrape()
    grown = scrape.since(before)
    assert grown("dp_vllm_requests_total", route="/v1/completions", status="200") == 3
    assert grown("dp_vllm_request_seconds_count", route="/v1/completions") == 3
    assert scrape.value("dp_vllm_replica_available") == 2, "each replica is, or is not"
    assert scrape.value("dp_vllm_endpoints_generation") == 1
    with pair.only(first):
        assert pair.scrape().since(before)("dp_vllm_requests_total", route="/v1/completions") == 3, "none is lost"
    decisions = wire.ask(pair.admin, "GET", "/decisions").json()["decisions"]
    assert [decision["at"] for decision in decisions] == sorted(decision["at"] for decision in decisions)
    assert len(decisions) >= 3


def test_streams_through_both_end_in_order(pair: Crew, engines: Engines) -> None:
    for engine in engines:
        engine.script = scripted.saying(STREAM, event(said("a")), event(b"[DONE]"), END)
    answers = [wire.complete(pair.url, stream=True) for _ in range(10)]
    assert all(answer.body.endswith(b"data: [DONE]\n\n") for answer in answers)


EXTREMES = (
    *("-1", "0", f"{2**31}", f"{2**53 + 1}", f"{2**64}", f"{10**20}", "1" + "0" * 400, "9" * 5000, "1e308", "1e400"),
    *("-1e400", "NaN", "Infinity", "-0.0", "1.5", '""', '"7"', "true", "null", "[]", "{}"),
)
FIELDS = ("n", "best_of", "max_tokens", "priority", "stream", "prompt", "prompt_cache_key", "user", "cache_salt")
HEADERS = ("x-dp-vllm-priority", "x-dp-vllm-wait", "x-session-id", "x-request-id")


def test_no_number_in_a_body_or_a_header_harms_a_gateway(pair: Crew, engines: Engines) -> None:
    workers = pair.workers()
    bodies = [b'{"prompt":"x","%b":%b}' % (name.encode(), value.encode()) for name in FIELDS for value in EXTREMES]
    bodies += [b'{"prompt":[%b],"n":2}' % value.encode() for value in EXTREMES]
    with wire.line(pair.url) as line:
        for body in bodies:
            line.send(wire.request("POST", "/v1/completions", body))
            assert line.answer("POST").status == 200, body[:80]
        for name, value in ((name, value) for name in HEADERS for value in EXTREMES):
            line.send(wire.request("POST", "/v1/completions", b'{"prompt":"x"}', {name: value}))
            assert line.answer("POST").status in ((200, 400) if name.startswith("x-dp") else (200,)), (name, value[:80])
    arrived = [asked.body for engine in engines for asked in engine.asked]
    assert set(bodies) < set(arrived), "engines are sent what clients wrote"
    pair.wait_until_idle()
    for engine in engines:
        engine.script = scripted.saying(STREAM, event(said("a")))
    for value in (f"{2**54}", f"{10**20}", "1" + "0" * 400):  # in flight while the workers tell each other
        with wire.line(pair.url) as line:
            line.send(wire.request("POST", "/v1/completions", b'{"prompt":"x","stream":true,"n":%b}' % value.encode()))
            line.read_until(b'"a"')
            for worker in workers:
                with pair.only(worker):
                    assert wire.ask(pair.url, "GET", "/metrics").status == 200
                    assert pair.state()["in_flight"] == 1, "each knows what the other has"
        pair.wait_until_idle()
    scrape = pair.scrape()
    assert scrape.value("dp_vllm_gateway_message_errors_total") == 0, "what this worker does can be told"
    assert scrape.value("dp_vllm_replica_sequences") == scrape.value("dp_vllm_replica_waiting_tokens") == 0
    assert pair.workers() == workers, "none was replaced"
