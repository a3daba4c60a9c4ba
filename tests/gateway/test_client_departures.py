"""Clients that leave, and clients that do not take what they asked for."""

import socket
import threading
import time
from pathlib import Path

import programs
import psutil
import pytest
import scripted
import wire
from scripted import FINE, STREAM, Asked, Engines, Peer, chunk, event, said

PATH = "/v1/completions"
BODY = b'{"prompt": "x", "stream": true}'
SOON_SECONDS = 1.0
"""How soon the engine is to stop working for a client that left."""


class Watched:
    """A script that says its pieces and then waits for the gateway to leave."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = pieces
        self.asked = threading.Event()
        self.left = threading.Event()
        self.left_at = 0.0

    def __call__(self, peer: Peer, asked: Asked) -> None:
        peer.send(*self._pieces)
        self.asked.set()
        if peer.left():
            self.left_at = time.monotonic()
            self.left.set()


WHEN = {
    "before the head": (),
    "after the head": (STREAM,),
    "after a comment": (STREAM, chunk(b": wait\n\n")),
    "within a stream": (STREAM, event(said("one"))),
    "within a body": (scripted.head(content_type="text/plain", content_length=100), b"some"),
    "within a held body": (scripted.head(content_type="application/json", content_length=100), b"{"),
}


@pytest.mark.parametrize("pieces", WHEN.values(), ids=WHEN)
@pytest.mark.parametrize("reset", [False, True], ids=["closing", "resetting"])
def test_when_a_client_leaves_its_engine_is_told_within_a_second(
    url: str, engines: Engines, pieces: tuple[bytes, ...], reset: bool
) -> None:
    watched = Watched(*pieces)
    for engine in engines:
        engine.script = watched
    line = wire.Line(url)
    line.send(wire.request("POST", PATH, BODY))
    assert watched.asked.wait(programs.START_SECONDS)
    if pieces and b"one" in pieces[-1]:
        line.read_until(b"one")
    began = time.monotonic()
    if reset:
        Peer(line.socket, 0).reset()
    line.close()
    assert watched.left.wait(programs.START_SECONDS)
    assert watched.left_at - began < SOON_SECONDS
    assert sum(len(engine.asked) for engine in engines) == 1, "it is not asked of another replica"


def test_a_client_that_leaves_before_its_body_is_there_reaches_no_engine(url: str, engines: Engines) -> None:
    with wire.line(url) as line:
        line.send(wire.request("POST", PATH, headers={"content-length": "100"}), b"{")
    assert wire.ask(url, "POST", PATH, {}).status == 200
    assert sum(len(engine.asked) for engine in engines) == 1, "the other one alone"


def test_a_client_that_stops_sending_but_reads_on_has_left(url: str, engines: Engines) -> None:
    """A half-closed connection cannot be told from a closed one before something is written to it."""
    watched = Watched()
    for engine in engines:
        engine.script = watched
    with wire.line(url) as line:
        line.send(wire.request("POST", PATH, BODY))
        assert watched.asked.wait(programs.START_SECONDS)
        line.socket.shutdown(socket.SHUT_WR)
        assert watched.left.wait(programs.START_SECONDS)


class Endless:
    """A script that streams until the gateway takes no more, and tells how much it got rid of."""

    def __init__(self) -> None:
        self.sent = 0
        self.ended = threading.Event()

    def __call__(self, peer: Peer, asked: Asked) -> None:
        piece = event(said("x" * 60_000))
        try:
            peer.send(STREAM)
            while True:
                peer.send(piece)
                self.sent += len(piece)
        except OSError:
            self.ended.set()
            raise

    def stalls(self) -> bool:
        """Whether the gateway takes no more."""
        before = self.sent
        time.sleep(0.3)
        return before > 0 and self.sent == before


def test_a_client_that_reads_nothing_costs_bounded_memory_and_is_cut(tmp_path: Path) -> None:
    endless = Endless()
    admin = tmp_path / "admin.sock"
    with (
        scripted.engine(endless) as engine,
        scripted.gateway(tmp_path, [engine], "--write-seconds", "1", "--admin-socket", str(admin)) as gateway,
        wire.line(gateway.url) as line,
    ):
        before = psutil.Process(gateway.pid).memory_info().rss
        line.send(wire.request("POST", PATH, BODY))
        programs.wait_until(endless.stalls, "the engine is held back")
        grown = psutil.Process(gateway.pid).memory_info().rss - before
        assert grown < 20 << 20, f"{grown >> 20} MiB for one client"
        assert endless.sent < 40 << 20, "what is under way is in the sockets' buffers"
        assert endless.ended.wait(programs.START_SECONDS), "after the time limit the engine is let go"
        programs.wait_until(lambda: not wire.in_flight(f"unix:{admin}"), "nothing is in flight")
        assert b"0\r\n\r\n" not in line.rest()[-5:], "the client can see that it has not all"


def test_a_client_that_reads_slowly_gets_all_of_it(tmp_path: Path) -> None:
    pieces = [event(said("x" * 60_000)) for _ in range(400)]
    script = scripted.saying(STREAM, *pieces, event(b"[DONE]"), scripted.END)
    with (
        scripted.engine(script) as engine,
        scripted.gateway(tmp_path, [engine], "--chunk-seconds", "1", "--write-seconds", "10") as gateway,
        wire.line(gateway.url) as line,
    ):
        line.send(wire.request("POST", PATH, BODY))
        time.sleep(1.5)  # longer than the engine may pause: but it is the client that pauses
        answer = line.answer()
    assert answer.body.count(b"data: ") == 401
    assert answer.body.endswith(b"data: [DONE]\n\n") and not answer.cut


def test_other_clients_are_served_while_one_stalls(tmp_path: Path) -> None:
    endless = Endless()
    with scripted.engine(endless) as engine, scripted.gateway(tmp_path, [engine]) as gateway:
        with wire.line(gateway.url) as line:
            line.send(wire.request("POST", PATH, BODY))
            programs.wait_until(endless.stalls, "the engine is held back")
            engine.script = FINE
            for _ in range(10):
                assert wire.complete(gateway.url).status == 200
        assert endless.ended.wait(programs.START_SECONDS)
