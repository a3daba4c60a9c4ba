"""How it starts and how it ends."""

import json
import signal
import socket
from pathlib import Path

import programs
import pytest
from ports import free_port
from programs import wait_until
from wire import Line, ask, line, request

SLOW = ("--sim-decode-step-seconds", "0.02")


def long_request(tokens: int) -> bytes:
    body = json.dumps({"prompt": "Hello", "max_tokens": tokens, "stream": True}).encode()
    return request("POST", "/v1/completions", body, {"content-type": "application/json"})


def read_on(opened: Line) -> None:
    """Read until the connection ends."""
    while opened.socket.recv(65536):
        pass


def is_closed(url: str) -> bool:
    try:
        ask(url, "GET", "/health")
    except ConnectionError:
        return True
    return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_aborts_what_runs_and_ends_it(tmp_path: Path, number: signal.Signals) -> None:
    with programs.sim(tmp_path, *SLOW) as program, line(program.url) as opened:
        opened.send(long_request(1000))
        opened.read_until(b"data: {")
        program.signal(number)
        rest = opened.rest()
        assert b'"finish_reason":"abort"' in rest
        assert rest.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
        assert program.wait() == 0


def test_with_a_shutdown_timeout_it_drains(tmp_path: Path) -> None:
    with programs.sim(tmp_path, "--shutdown-timeout", "30") as program, line(program.url) as opened:
        assert ask(program.url, "POST", "/sim/fault", b"hung").status == 200
        opened.send(long_request(60))
        opened.read_until(b"200 OK")
        program.signal(signal.SIGTERM)
        wait_until(lambda: "Draining" in program.output(), "it drains")
        program.signal(signal.SIGTERM)
        refused = ask(program.url, "POST", "/v1/completions", {"prompt": "Hello"})
        assert (refused.status, refused.error["message"]) == (500, "cannot schedule new futures after shutdown")
        assert ask(program.url, "GET", "/health").status == 200
        assert ask(program.url, "DELETE", "/sim/fault").status == 200
        answer = opened.read_until(b"[DONE]")
        assert b'"finish_reason":"length"' in answer
        assert program.wait() == 0


def test_past_its_shutdown_timeout_it_hangs_for_ever(tmp_path: Path) -> None:
    with programs.sim(tmp_path, "--shutdown-timeout", "0.2", *SLOW) as program, line(program.url) as opened:
        opened.send(long_request(1000))
        opened.read_until(b"data: {")
        program.signal(signal.SIGTERM)
        wait_until(lambda: is_closed(program.url), "the listener is closed")
        program.signal(signal.SIGTERM)
        opened.socket.settimeout(0.3)
        with pytest.raises(TimeoutError):
            read_on(opened)
        assert program.process.poll() is None


def test_the_first_signal_during_the_load_is_swallowed(tmp_path: Path) -> None:
    argv = programs.python("-m", "dp_vllm.sim", "m", "--uds", f"{tmp_path}/s", "--sim-load-seconds", "2")
    log = tmp_path / "log"
    with programs.running(argv, log, ready=lambda: "Starting to load" in log.read_text()) as program:
        program.signal(signal.SIGTERM)
        wait_until(lambda: "swallowed" in program.output(), "the signal is swallowed")
        wait_until(lambda: "Uvicorn running" in program.output(), "it starts all the same")
        program.signal(signal.SIGTERM)
        assert program.wait() == 0


def test_the_second_signal_during_the_load_ends_it(tmp_path: Path) -> None:
    argv = programs.python("-m", "dp_vllm.sim", "m", "--uds", f"{tmp_path}/s", "--sim-load-seconds", "60")
    log = tmp_path / "log"
    with programs.running(argv, log, ready=lambda: "Starting to load" in log.read_text()) as program:
        program.signal(signal.SIGTERM)
        wait_until(lambda: "swallowed" in program.output(), "the signal is swallowed")
        program.signal(signal.SIGTERM)
        assert program.wait() == 0


def test_it_can_ignore_signals(tmp_path: Path) -> None:
    with programs.sim(tmp_path, "--sim-fault", "ignore-sigterm") as program:
        program.signal(signal.SIGTERM)
        wait_until(lambda: "ignored" in program.output(), "the signal is ignored")
        assert ask(program.url, "DELETE", "/sim/fault").status == 200
        program.signal(signal.SIGTERM)
        assert program.wait() == 0


def test_a_hung_request_does_not_keep_it_from_ending(tmp_path: Path) -> None:
    flags = ("--sim-fault", "hang-head", "--enable-server-load-tracking")
    with programs.sim(tmp_path, *flags) as program, line(program.url) as opened:
        opened.send(long_request(10))
        wait_until(lambda: ask(program.url, "GET", "/load").json()["server_load"] == 1, "it has taken the request")
        program.signal(signal.SIGTERM)
        assert program.wait() == 0


def test_while_it_loads_connections_are_refused_and_its_place_is_taken(tmp_path: Path) -> None:
    port = free_port()
    place = ("--host", "127.0.0.1", "--port", str(port))
    argv = programs.python("-m", "dp_vllm.sim", "m", *place, "--sim-load-seconds", "60")
    log = tmp_path / "log"
    with programs.running(argv, log, ready=lambda: "Starting to load" in log.read_text()):
        with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
            pass
        with programs.running(programs.python("-m", "dp_vllm.sim", "m", *place), tmp_path / "second") as second:
            assert second.wait() == 1
            assert f"http://127.0.0.1:{port}: Address already in use" in second.output()


def test_a_socket_file_that_is_there_already_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "s"
    argv = programs.python("-m", "dp_vllm.sim", "m", "--uds", str(path))
    with programs.running(argv, tmp_path / "log", ready=path.exists) as program:
        wait_until(lambda: "Uvicorn running" in program.output(), "it serves")
        assert ask(f"unix:{path}", "GET", "/health").status == 200
        program.signal(signal.SIGTERM)
        assert program.wait() == 0
    assert path.exists(), "as the real engine it leaves its socket behind"
    with programs.running(argv, tmp_path / "log") as program:
        assert program.wait() == 1
        assert "Address already in use" in program.output()
