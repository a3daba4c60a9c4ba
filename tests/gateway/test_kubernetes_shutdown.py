"""SIGTERM in a cluster: other gateways take over, so clients are moved to them without a failed request."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import programs
import pytest
import scripted
import wire
from replica_pods import PORT, address, pod, running
from scripted import Engine
from scripted_api import api_server

STREAMED = wire.request("POST", "/v1/completions", b'{"prompt": "x", "stream": true}')
WHOLE = wire.request("POST", "/v1/completions", b'{"prompt": "x"}')
REFUSED = wire.request("POST", "/v1/completions", b"{")
OWN = wire.request("GET", "/ready")


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with scripted.engine(host=address(), port=PORT) as engine:
        yield engine


@contextmanager
def gateway(
    engine: Engine, directory: Path, monkeypatch: pytest.MonkeyPatch, seconds: float = 20
) -> Iterator[programs.Program]:
    with api_server(pod("m-1-0", running(engine.host))) as server:
        monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig(directory / "kubeconfig")))
        monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
        flags = ("--kubernetes-model", "m", "--shutdown-timeout", str(seconds))
        with programs.gateway(directory, *flags) as program:
            yield program


def end(program: programs.Program) -> None:
    """Send SIGTERM, and wait until it is acted upon."""
    program.signal(signal.SIGTERM)
    programs.wait_until(lambda: refuses(program.url), "nobody new is let in")


def refuses(url: str) -> bool:
    try:
        with wire.line(url):
            return False
    except ConnectionError:  # reset, in the moment in which it stops to listen
        return True


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [(WHOLE, 200), (STREAMED, 200), (REFUSED, 400), (OWN, 503)],
    ids=["whole", "stream", "refused", "own"],
)
def test_a_kept_connection_is_answered_once_more_and_closed(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request_bytes: bytes, status: int
) -> None:
    engine.script = scripted.saying(scripted.STREAM, scripted.event(b"[DONE]"), scripted.END)
    if request_bytes is WHOLE:
        engine.script = scripted.FINE
    with gateway(engine, tmp_path, monkeypatch) as program, wire.line(program.url) as line:
        line.send(WHOLE.replace(b"{", b"x"))
        assert line.answer().status == 400, "the connection is in use"
        end(program)
        line.send(request_bytes)
        answer = line.answer()
        assert (answer.status, answer.headers["connection"], answer.cut) == (status, "close", False)
        assert line.rest() == b""
        began = time.monotonic()
        assert program.wait() == 0
        assert time.monotonic() - began < 3, "no client is left to wait for"


def test_a_client_that_asks_nothing_is_not_waited_for_long(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.script = scripted.FINE
    with gateway(engine, tmp_path, monkeypatch, 1000) as program, wire.line(program.url) as idle:
        idle.send(WHOLE)
        assert idle.answer().status == 200
        began = time.monotonic()
        end(program)
        assert idle.rest() == b""
        assert program.wait() == 0
        assert 4 < time.monotonic() - began < 15


def test_a_stream_has_the_whole_time_and_so_have_idle_clients(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()

    def held(peer: scripted.Peer, asked: scripted.Asked) -> None:
        peer.send(scripted.STREAM, scripted.event(scripted.said("one")))
        go_on.wait(programs.START_SECONDS)
        peer.send(scripted.event(scripted.said("two")), scripted.event(b"[DONE]"), scripted.END)

    engine.script = held
    with (
        gateway(engine, tmp_path, monkeypatch, 1000) as program,
        wire.line(program.url) as idle,
        wire.line(program.url) as line,
    ):
        idle.send(OWN)
        assert idle.answer().status == 200
        line.send(STREAMED)
        assert line.read_until(b"\r\n\r\n")
        end(program)
        began = time.monotonic()
        programs.wait_until(lambda: time.monotonic() > began + 5.5, "longer than idle clients are waited for")
        engine.script = scripted.FINE
        idle.send(WHOLE)
        answer = idle.answer()
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        go_on.set()
        assert b"[DONE]" in line.rest()
        assert program.wait() == 0


def test_at_the_limit_the_rest_is_told(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = scripted.saying(scripted.STREAM, scripted.event(scripted.said("one")))
    engine.script = held
    with gateway(engine, tmp_path, monkeypatch, 0.5) as program, wire.line(program.url) as line:
        line.send(STREAMED)
        assert line.read_until(b"\r\n\r\n")
        end(program)
        said = line.rest()
        assert b"the server is shutting down" in said and b"[DONE]" not in said
        assert program.wait() == 0


def test_a_second_signal_ends_it_at_once(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine.script = scripted.saying(scripted.STREAM, scripted.event(scripted.said("one")))
    with gateway(engine, tmp_path, monkeypatch, 1000) as program, wire.line(program.url) as line:
        line.send(STREAMED)
        assert line.read_until(b"\r\n\r\n")
        end(program)
        program.signal(signal.SIGTERM)
        assert b"the server is shutting down" in line.rest()
        assert program.wait() == 0
