"""Workers that die, begin and end."""

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import crew
import programs
import pytest
import scripted
import wire
from crew import Crew
from ports import free_port
from scripted import END, STREAM, Asked, Engine, Peer, event, said

BODY = b'{"prompt": "x", "stream": true}'

LAST = b"data: [DONE]\n\n\r\n0\r\n\r\n"
"""How a stream ends that is whole."""


class Held:
    """A script that begins streams and ends them when it is told to."""

    def __init__(self) -> None:
        self.go_on = threading.Event()

    def __call__(self, peer: Peer, asked: Asked) -> None:
        if b"stream" not in asked.body:
            scripted.FINE(peer, asked)
            return
        peer.send(STREAM, event(said("one")))
        if self.go_on.wait(programs.START_SECONDS):
            peer.send(event(said("two")), event(b"[DONE]"), END)


@contextmanager
def scene(directory: Path, *flags: str) -> Iterator[tuple[Crew, Engine, Held]]:
    held = Held()
    with scripted.engine(held) as engine, crew.crew(directory, engine, flags=flags) as pair:
        yield pair, engine, held
        held.go_on.set()


def begin(pair: Crew, worker: int) -> wire.Line:
    """A stream through that worker."""
    with pair.only(worker):
        line = wire.Line(pair.url)
        line.send(wire.request("POST", "/v1/completions", BODY))
        line.read_until(b"one")
    return line


def gone(pids: list[int]) -> bool:
    return all(map(programs.has_ended, pids))


def test_a_worker_that_is_killed_loses_its_streams_alone_and_is_back(tmp_path: Path) -> None:
    with scene(tmp_path) as (pair, _, held):
        first, second = pair.workers()
        lost = [begin(pair, first) for _ in range(3)]
        kept = [begin(pair, second) for _ in range(3)]
        counted = pair.scrape().value("dp_vllm_attempts_total")
        os.kill(second, signal.SIGSTOP)
        os.kill(first, signal.SIGKILL)
        assert wire.complete(pair.url).status == 200, "a client that comes meanwhile waits for the new one"
        os.kill(second, signal.SIGCONT)
        assert all(b"DONE" not in line.rest() for line in lost)
        assert second in pair.workers() and first not in pair.workers()
        programs.wait_until(lambda: pair.state()["in_flight"] == 3, "what was lost is not counted")
        held.go_on.set()
        assert all(line.read_until(b"0\r\n\r\n").endswith(LAST) for line in kept)
        pair.wait_until_idle()
        pair.wait_until_all_know()
        assert pair.state()["replicas"]["0"]["sequences"] == 0
        assert pair.scrape().value("dp_vllm_attempts_total") >= counted, "what has been told stays counted"
        for line in lost + kept:
            line.close()


def test_a_new_worker_knows_what_the_others_knew(tmp_path: Path) -> None:
    with scene(tmp_path) as (pair, engine, _):
        first, second = pair.workers()
        prompt = "All of this has been said before. " * 300
        with pair.only(first):
            wire.complete(pair.url, prompt=prompt)
            assert wire.ask(pair.url, "POST", "/v1/load_lora_adapter", {"lora_name": "sql"}).status == 200
        os.kill(first, signal.SIGKILL)
        programs.wait_until(lambda: len(pair.workers()) == 2 and first not in pair.workers(), "it is replaced")
        (third,) = [pid for pid in pair.workers() if pid != second]
        with pair.only(third):
            assert wire.complete(pair.url, prompt=prompt).headers["x-dp-vllm-reason"].startswith("prefix")
        assert [asked.target for asked in engine.asked].count("/v1/load_lora_adapter") == 1, "the engine has it already"


def test_requests_go_on_while_workers_are_killed_one_after_another(tmp_path: Path) -> None:
    with scene(tmp_path) as (pair, _, _):
        served, cut = 0, 0
        for number in range(60):
            if number % 20 == 10:
                os.kill(pair.workers()[0], signal.SIGKILL)
            try:
                assert wire.complete(pair.url).status == 200
                served += 1
            except OSError:
                cut += 1  # it was the one whose worker was killed
        assert served >= 57, cut
        programs.wait_until(lambda: len(pair.workers()) == 2, "all are back")


def test_at_the_end_streams_through_all_workers_may_end(tmp_path: Path) -> None:
    with scene(tmp_path, "--shutdown-timeout", "20") as (pair, _, held):
        workers = pair.workers()
        lines = [begin(pair, worker) for worker in workers]
        os.killpg(pair.program.pid, signal.SIGINT)  # as a terminal sends it: to all processes
        programs.wait_until(lambda: not programs.answers(pair.url + "/ready"), "it ends")
        held.go_on.set()
        assert all(line.rest().endswith(LAST) for line in lines)
        assert pair.program.wait() == 0
        assert gone(workers)
        assert not Path(pair.admin.removeprefix("unix:")).exists()
        for line in lines:
            line.close()


def test_at_the_time_limit_all_streams_are_told(tmp_path: Path) -> None:
    with scene(tmp_path, "--shutdown-timeout", "0.3") as (pair, _, _):
        lines = [begin(pair, worker) for worker in pair.workers()]
        pair.program.signal(signal.SIGTERM)
        assert all(b"the server is shutting down" in line.rest() for line in lines)
        assert pair.program.wait() == 0
        for line in lines:
            line.close()


def test_a_second_signal_ends_all_at_once(tmp_path: Path) -> None:
    with scene(tmp_path, "--shutdown-timeout", "100") as (pair, _, _):
        lines = [begin(pair, worker) for worker in pair.workers()]
        pair.program.signal(signal.SIGTERM)
        programs.wait_until(lambda: not programs.answers(pair.url + "/ready"), "it ends")
        pair.program.signal(signal.SIGTERM)
        assert all(b"the server is shutting down" in line.rest() for line in lines)
        assert pair.program.wait() == 0
        for line in lines:
            line.close()


def test_when_the_parent_is_killed_nothing_is_left(tmp_path: Path) -> None:
    with scene(tmp_path) as (pair, _, _):
        workers = pair.workers()
        pair.program.signal(signal.SIGKILL)
        programs.wait_until(lambda: gone(workers), "no worker is left")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", int(pair.url.rpartition(":")[2])))


@contextmanager
def refused(directory: Path, *flags: str) -> Iterator[programs.Program]:
    """A gateway that cannot begin."""
    words = ("--replica", "http://127.0.0.1:1", "--host", "127.0.0.1", "--gateway-workers", "2", *flags)
    argv = programs.python("-m", "dp_vllm_gateway", *words)
    with programs.running(argv, directory / "gateway.log") as program:
        yield program


def test_a_taken_port_is_an_error(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with refused(tmp_path, "--port", port) as program:
            assert program.wait() == 1
            assert f"--port: cannot listen on 127.0.0.1:{port}: Address already in use" in program.output()


def test_what_keeps_a_worker_from_serving_is_told_once(tmp_path: Path) -> None:
    flags = ("--port", str(free_port()), "--ssl-certfile", str(tmp_path / "none.pem"))
    with refused(tmp_path, *flags) as program:
        assert program.wait() == 2
        assert program.output().count("TLS cannot be served") == 1


def test_a_recording_needs_one_process(tmp_path: Path) -> None:
    with refused(tmp_path, "--record", str(tmp_path / "traffic.jsonl")) as program:
        assert program.wait() == 2
        assert "--record needs --gateway-workers 1" in program.output()
