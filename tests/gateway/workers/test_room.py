"""How much a replica may have in flight is counted over all workers, and who waits at one has room when another has."""

import os
import signal
import threading
import time
from pathlib import Path

import crew
import programs
import scripted
import wire
from crew import Crew
from scripted import FINE, Asked, Peer

from dp_vllm_gateway.workers.others import SILENT_SECONDS

ONE = ("--max-replica-sequences", "1")


def test_a_request_waits_for_what_went_through_the_other(tmp_path: Path) -> None:
    go_on = threading.Semaphore(0)

    def held(peer: Peer, asked: Asked) -> None:
        assert go_on.acquire(timeout=programs.START_SECONDS)
        FINE(peer, asked)

    with scripted.engine(held) as engine, crew.crew(tmp_path, engine, flags=ONE) as pair:
        first, second = pair.workers()
        lines = []
        for worker in (first, second):
            with pair.only(worker):
                lines.append(wire.Line(pair.url))
                lines[-1].send(wire.request("POST", "/v1/completions", b'{"prompt": "x"}'))
                programs.wait_until(
                    lambda: pair.state()["in_flight"] + pair.state()["queued"] == len(lines), "it has come"
                )
        pair.wait_until_all_know()
        assert (pair.state()["in_flight"], pair.state()["queued"]) == (1, 1)
        programs.wait_until(lambda: len(engine.asked) == 1, "the engine has one of them")
        go_on.release(2)
        assert [line.answer("POST").status for line in lines] == [200, 200]
        for line in lines:
            line.close()


def held_if_it_says_so(peer: Peer, asked: Asked) -> None:
    if b"held" not in asked.body:
        FINE(peer, asked)


def begin(pair: Crew, worker: int) -> wire.Line:
    """A request through that worker which is not answered."""
    with pair.only(worker):
        line = wire.Line(pair.url)
        line.send(wire.request("POST", "/v1/completions", b'{"prompt": "held"}'))
        programs.wait_until(lambda: pair.state()["in_flight"] == 1, "it has come")
    return line


def test_what_a_silent_worker_had_is_not_counted_any_more(tmp_path: Path) -> None:
    with scripted.engine(held_if_it_says_so) as engine, crew.crew(tmp_path, engine, flags=ONE) as pair:
        first, second = pair.workers()
        line = begin(pair, first)
        with pair.only(second):
            assert wire.complete(pair.url).status == 200, "it waited until the first was silent for two seconds"
            assert pair.state()["in_flight"] == 1, "but nobody is told that the replica has nothing to do"
        line.close()


def test_of_a_worker_that_died_nothing_is_counted(tmp_path: Path) -> None:
    with scripted.engine(held_if_it_says_so) as engine, crew.crew(tmp_path, engine, flags=ONE) as pair:
        first, second = pair.workers()
        lost = begin(pair, first)
        with pair.only(second):
            waiting = wire.Line(pair.url)
            waiting.send(wire.request("POST", "/v1/completions", b'{"prompt": "x"}'))
            programs.wait_until(lambda: pair.state()["queued"] == 1, "it waits")
            os.kill(first, signal.SIGKILL)
            began = time.monotonic()
            assert waiting.answer("POST").status == 200
            assert time.monotonic() - began < SILENT_SECONDS, "its death was told, not its silence noticed"
        assert lost.rest() == b""
        for line in (lost, waiting):
            line.close()
