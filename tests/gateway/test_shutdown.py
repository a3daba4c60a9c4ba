"""SIGTERM: what is under way may end, nothing new begins, and everybody is told."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import programs
import scripted
import wire
from scripted import END, STREAM, Asked, Engine, Peer, chunk, event, said

BODY = b'{"prompt": "x", "stream": true}'


class Held:
    """A script that begins a stream and ends it when it is told to."""

    def __init__(self, *begin: bytes) -> None:
        self._begin = begin
        self.asked = threading.Event()
        self.go_on = threading.Event()

    def __call__(self, peer: Peer, asked: Asked) -> None:
        peer.send(*self._begin)
        self.asked.set()
        if self.go_on.wait(programs.START_SECONDS):
            peer.send(event(said("two")), event(b"[DONE]"), END)


ONE = (STREAM, event(said("one")))


@contextmanager
def ending(directory: Path, script: Held, seconds: float) -> Iterator[tuple[programs.Program, wire.Line, Engine]]:
    """A gateway with one request under way that has just been sent SIGTERM."""
    with (
        scripted.engine(script) as engine,
        scripted.gateway(directory, [engine], "--shutdown-timeout", str(seconds)) as gateway,
        wire.line(gateway.url) as line,
    ):
        line.send(wire.request("POST", "/v1/completions", BODY))
        assert script.asked.wait(programs.START_SECONDS)
        gateway.signal(signal.SIGTERM)
        programs.wait_until(lambda: not programs.answers(gateway.url + "/ready"), "it ends")
        yield gateway, line, engine
        script.go_on.set()


def test_a_stream_goes_on_to_its_end_while_new_requests_are_refused(tmp_path: Path) -> None:
    held = Held(*ONE)
    with ending(tmp_path, held, 20) as (gateway, line, engine):
        for refused in (wire.complete(gateway.url), wire.ask(gateway.url, "GET", "/health")):
            assert (refused.status, refused.error["code"]) == (503, "shutting_down")
            assert refused.headers["connection"] == "close" and "retry-after" in refused.headers
        assert wire.ask(gateway.url, "GET", "/metrics").status == 200, "the last numbers are told"
        held.go_on.set()
        answer = line.answer()
        assert answer.body.endswith(b"data: [DONE]\n\n") and not answer.cut
        assert gateway.wait() == 0
        assert len(engine.asked) == 1


def test_at_the_time_limit_a_stream_ends_with_an_error_event(tmp_path: Path) -> None:
    with ending(tmp_path, Held(*ONE), 0.3) as (gateway, line, _):
        answer = line.answer()
        assert not answer.cut
        assert b"one" in answer.body and b"the server is shutting down" in answer.body
        assert b"[DONE]" not in answer.body
        assert gateway.wait() == 0


def test_at_the_time_limit_a_request_without_an_answer_is_told_to_come_again(tmp_path: Path) -> None:
    for number, begin in enumerate(((), (STREAM, chunk(b": wait\n\n")))):
        directory = tmp_path / str(number)
        directory.mkdir()
        with ending(directory, Held(*begin), 0.3) as (gateway, line, _):
            answer = line.answer()
            assert (answer.status, answer.error["code"]) == (503, "shutting_down")
            assert gateway.wait() == 0


def test_a_second_signal_ends_the_waiting(tmp_path: Path) -> None:
    with ending(tmp_path, Held(*ONE), 1000) as (gateway, line, _):
        began = time.monotonic()
        gateway.signal(signal.SIGINT)
        assert b"the server is shutting down" in line.answer().body
        assert gateway.wait() == 0
        assert time.monotonic() - began < 10


def test_without_requests_it_ends_at_once(tmp_path: Path) -> None:
    with scripted.engine() as engine, scripted.gateway(tmp_path, [engine], "--shutdown-timeout", "1000") as gateway:
        with wire.line(gateway.url) as idle:
            idle.send(wire.request("GET", "/health"))
            assert idle.answer().status == 200
            gateway.signal(signal.SIGTERM)
            assert gateway.wait() == 0
            assert idle.rest() == b""
        assert "Traceback" not in gateway.output()
