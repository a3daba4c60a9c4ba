"""Every fault can be seen from outside, and switched off again."""

import json
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import programs
import psutil
import pytest
from ports import free_port
from programs import Program, wait_until
from sim.scrape import metric
from wire import Answer, Line, ask, line, request

CHAT = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 20}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    with programs.sim(tmp_path_factory.mktemp("faults"), "--enable-server-load-tracking") as program:
        yield program


@pytest.fixture
def target(shared: Program) -> Iterator[Program]:
    """An engine without faults."""
    yield shared
    assert ask(shared.url, "DELETE", "/sim/fault").json() == {"faults": []}
    assert chat(shared).status == 200


def switch_on(program: Program, kind: str, **fields: Any) -> None:
    assert ask(program.url, "POST", "/sim/fault", {"kind": kind, **fields}).status == 200


def chat(program: Program, **fields: Any) -> Answer:
    return ask(program.url, "POST", "/v1/chat/completions", CHAT | fields)


def send(opened: Line, **fields: Any) -> None:
    body = json.dumps(CHAT | fields).encode()
    opened.send(request("POST", "/v1/chat/completions", body, {"content-type": "application/json"}))


def read_on(opened: Line) -> None:
    """Read until the connection ends."""
    while opened.socket.recv(65536):
        pass


def raw(program: Program, **fields: Any) -> bytes:
    """Every byte of an answer, up to the connection's end."""
    with line(program.url) as opened:
        send(opened, **fields)
        return opened.rest()


def test_faults_are_listed_with_how_often_they_struck(target: Program) -> None:
    switch_on(target, "status", status=418, message="teapot", count=2)
    assert [chat(target).status for _ in range(3)] == [418, 418, 200]
    (fault,) = ask(target.url, "GET", "/sim/fault").json()["faults"]
    assert fault == {"kind": "status", "count": 2, "status": 418, "message": "teapot", "struck": 2}


def test_one_kind_can_be_switched_off(target: Program) -> None:
    switch_on(target, "busy")
    switch_on(target, "slow", factor=1.5)
    assert [one["kind"] for one in ask(target.url, "DELETE", "/sim/fault?kind=busy").json()["faults"]] == ["slow"]
    assert chat(target).status == 200


def test_a_fault_can_be_kept_to_some_paths(target: Program) -> None:
    switch_on(target, "status", path="/v1/models")
    assert ask(target.url, "GET", "/v1/models").status == 500
    assert chat(target).status == 200


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b"no-such-fault", "cut, reset"),
        (b'{"kind": "cut", "afterwards": 3}', "afterwards"),
        (b'{"kind": "die", "signal": "NOSUCH"}', "NOSUCH"),
        (b"{", "not JSON"),
        (b"orphan", "for the start"),
    ],
    ids=["kind", "field", "signal", "json", "too late"],
)
def test_a_fault_that_cannot_be_is_refused(target: Program, body: bytes, named: str) -> None:
    answer = ask(target.url, "POST", "/sim/fault", body)
    assert answer.status == 400
    assert named in answer.error["message"]


@pytest.mark.parametrize(("kind", "status", "text"), [("busy", 503, "currently busy"), ("draining", 500, "futures")])
def test_it_refuses_in_vllms_words(target: Program, kind: str, status: int, text: str) -> None:
    switch_on(target, kind)
    answer = chat(target)
    assert answer.status == status
    assert text in answer.error["message"]


def test_it_takes_a_request_and_never_answers(target: Program) -> None:
    switch_on(target, "hang-head")
    with line(target.url) as opened:
        send(opened)
        wait_until(lambda: ask(target.url, "GET", "/load").json()["server_load"] == 1, "it is taken")
        opened.socket.settimeout(0.2)
        with pytest.raises(TimeoutError):
            opened.socket.recv(1)
    wait_until(lambda: ask(target.url, "GET", "/load").json()["server_load"] == 0, "it notices that the client left")


def test_it_closes_without_a_byte(target: Program) -> None:
    switch_on(target, "close")
    assert raw(target) == b""


def test_it_answers_what_is_not_http(target: Program) -> None:
    switch_on(target, "garbage")
    assert not raw(target).startswith(b"HTTP/")


def test_it_answers_twice_in_one_write(target: Program) -> None:
    switch_on(target, "two-responses", count=1)
    with line(target.url) as opened:
        send(opened)
        assert [opened.answer().json(), opened.answer().json()] == [{"one": 1}, {"two": 2}]


def test_it_answers_with_a_huge_head(target: Program) -> None:
    switch_on(target, "huge-header", count=1)
    with line(target.url) as opened:
        send(opened)
        assert len(opened.read_until(b"x-huge: ") + opened.read(10_000_000)) > 10_000_000


def test_it_promises_more_than_it_sends(target: Program) -> None:
    switch_on(target, "wrong-length")
    answer = chat(target)
    assert (answer.cut, answer.body) == (True, b'{"half":')


def test_it_ends_half_a_body_with_the_connection(target: Program) -> None:
    switch_on(target, "close-delimited")
    answer = chat(target)
    assert (answer.cut, answer.body) == (False, b'{"half":')


def test_it_says_something_else_before_the_answer(target: Program) -> None:
    switch_on(target, "interim")
    with line(target.url) as opened:
        send(opened)
        assert opened.read_until(b"\r\n\r\n").startswith(b"HTTP/1.1 103")
        assert opened.read_until(b"\r\n\r\n").startswith(b"HTTP/1.1 100")
        assert opened.answer().status == 200


@pytest.mark.parametrize("kind", ["cut", "cut-chunked", "reset"])
def test_it_cuts_a_stream_after_so_many_chunks(target: Program, kind: str) -> None:
    switch_on(target, kind, after=4)
    answer = raw(target, stream=True)
    assert answer.count(b"data: {") == (5 if kind == "cut-chunked" else 4)
    assert b"[DONE]" not in answer
    assert not answer.endswith(b"0\r\n\r\n")


def test_a_reset_is_seen_as_one(target: Program) -> None:
    switch_on(target, "reset", after=0)
    with line(target.url) as opened:
        send(opened, stream=True)
        with pytest.raises(ConnectionResetError):
            read_on(opened)


def test_it_cuts_an_answer_that_is_no_stream(target: Program) -> None:
    switch_on(target, "cut")
    answer = chat(target)
    assert answer.cut
    assert answer.body.startswith(b'{"id":"chatcmpl-')


def test_it_stops_sending_in_the_middle_of_a_stream(target: Program) -> None:
    switch_on(target, "hang-stream", after=4)
    with line(target.url) as opened:
        send(opened, stream=True)
        for _ in range(4):
            opened.read_until(b"data: {")
        wait_until(lambda: metric(target.url, "vllm:num_requests_running") == 0, "the engine is done with it")
        opened.read_until(b"\n\n")
        opened.read_until(b"\r\n")
        opened.socket.settimeout(0.2)
        with pytest.raises(TimeoutError):
            opened.socket.recv(1)


def test_it_aborts_after_so_many_tokens(target: Program) -> None:
    switch_on(target, "abort", after=3)
    answer = chat(target).json()
    assert answer["choices"][0]["finish_reason"] == "abort"
    assert answer["usage"]["completion_tokens"] == 3
    streamed = chat(target, stream=True).body
    assert b'"finish_reason":"abort"' in streamed
    assert streamed.endswith(b"data: [DONE]\n\n")


def test_it_hangs_and_looks_healthy(target: Program) -> None:
    switch_on(target, "hung")
    with line(target.url) as opened:
        send(opened)
        wait_until(lambda: ask(target.url, "GET", "/load").json()["server_load"] == 1, "it is taken")
        counters = "vllm:iteration_tokens_total_count"
        before = metric(target.url, counters)
        assert ask(target.url, "GET", "/health").status == 200
        assert metric(target.url, counters) == before
        assert ask(target.url, "DELETE", "/sim/fault").status == 200
        assert opened.answer().status == 200


def test_it_is_slow(target: Program) -> None:
    assert chat(target).status == 200
    before = metric(target.url, "vllm:e2e_request_latency_seconds_sum")
    switch_on(target, "slow", factor=6)
    assert chat(target).status == 200
    assert metric(target.url, "vllm:e2e_request_latency_seconds_sum") - before > 20 * 5 * 0.005


def test_its_health_is_slow(target: Program) -> None:
    switch_on(target, "slow-health", seconds=30)
    with line(target.url) as opened:
        opened.send(request("GET", "/health"))
        assert chat(target).status == 200
        opened.socket.settimeout(0.1)
        with pytest.raises(TimeoutError):
            opened.socket.recv(1)


@pytest.mark.parametrize("uds", [False, True], ids=["tcp", "unix"])
def test_it_refuses_connections_for_a_while(tmp_path: Path, uds: bool) -> None:
    path, port = f"{tmp_path}/s", free_port()
    url = f"unix:{path}" if uds else f"http://127.0.0.1:{port}"
    place = ["--uds", path] if uds else ["--host", "127.0.0.1", "--port", str(port)]
    log = tmp_path / "log"
    argv = programs.python("-m", "dp_vllm.sim", "demo/model", *place)
    with programs.running(argv, log, url=url, ready=lambda: "Uvicorn running" in log.read_text()):
        address = path if uds else ("127.0.0.1", port)
        with line(url) as kept:
            kept.send(request("POST", "/sim/fault", b"refuse"))
            assert kept.answer().status == 200
            assert not accepts(address)
            kept.send(request("POST", "/sim/fault", b'{"kind": "refuse", "seconds": 0.1}'))
            assert kept.answer().status == 200
            wait_until(lambda: accepts(address), "it listens again")
        assert ask(url, "GET", "/health").status == 200


def accepts(address: str | tuple[str, int]) -> bool:
    with socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET) as probe:
        try:
            probe.connect(address)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
    return True


@pytest.mark.parametrize("kind", ["die-at-request", "die-mid-stream"])
def test_it_dies_when_a_request_comes_or_runs(tmp_path: Path, kind: str) -> None:
    with programs.sim(tmp_path, "--sim-fault", json.dumps({"kind": kind, "after": 3, "signal": "ABRT"})) as program:
        answer = raw(program, stream=True)
        assert answer.count(b"data: {") == (3 if kind == "die-mid-stream" else 0)
        assert program.wait() == -signal.SIGABRT


def test_it_dies_when_it_is_told(tmp_path: Path) -> None:
    with programs.sim(tmp_path) as program:
        with pytest.raises((AssertionError, ConnectionError, OSError)):
            switch_on(program, "die")
        assert program.wait() == -signal.SIGKILL


def test_it_fails_at_boot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DP_VLLM_SIM_FAULT", '{"kind": "fail-at-boot", "status": 3}')
    argv = programs.python("-m", "dp_vllm.sim", "demo/model", "--uds", f"{tmp_path}/s")
    with programs.running(argv, tmp_path / "log") as program:
        assert program.wait() == 3
        assert "CUDA out of memory" in program.output()


def test_it_leaves_an_orphan(tmp_path: Path) -> None:
    with programs.sim(tmp_path, "--sim-fault", "orphan") as program:
        (child,) = psutil.Process(program.pid).children()
        try:
            program.signal(signal.SIGTERM)
            assert program.wait() == 0
            child.send_signal(signal.SIGTERM)
            assert child.is_running()
            assert f"child {child.pid} ignores SIGTERM" in program.output()
        finally:
            child.kill()
