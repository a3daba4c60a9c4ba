"""What an HTTP parser lets pass although it must not reach a client, and which connections are used again."""

import asyncio
import itertools
import socket
import time
from collections.abc import Callable
from typing import Any

import programs
import pytest
import scripted
import wire
from scripted import END, FINE, STREAM, Asked, Engines, Peer, Script, chunk, event, said, saying, then_closing, whole

from dp_vllm_gateway.upstream import Connection, Connections, Headers, UpstreamError

_numbers = itertools.count()


def both(engines: Engines, script: Script) -> None:
    for engine in engines:
        engine.script = script


def connections(engines: Engines) -> int:
    """How many connections were used."""
    return len({asked.connection for engine in engines for asked in engine.asked})


def complete(url: str, **fields: Any) -> wire.Answer:
    """A completion like no other: deaths are not held against the next one."""
    return wire.complete(url, prompt=f"number {next(_numbers)}", **fields)


def pausing(*pieces: bytes) -> Script:
    """A script whose pieces arrive one by one."""

    def script(peer: Peer, asked: Asked) -> None:
        for piece in pieces:
            peer.send(piece)
            time.sleep(0.01)

    return script


ANSWER = whole(200, {"is": "this"})
OTHER = whole(200, {"is": "another's"})
EARLY = scripted.head(103, link="</x>; rel=preload")
CONTINUE = scripted.head(100)


# the answer to HEAD


def test_what_follows_the_head_of_an_answer_to_head_reaches_nobody(url: str, engines: Engines) -> None:
    both(engines, saying(OTHER))  # with a body, which must not be
    for _ in range(2):
        answer = wire.ask(url, "HEAD", "/any")
        assert (answer.status, answer.body) == (200, b"")
    both(engines, saying(ANSWER))
    for _ in range(2):
        assert wire.ask(url, "GET", "/any").json() == {"is": "this"}
    assert connections(engines) == 4, "the connections with a body left over are not used again"


# interim answers


@pytest.mark.parametrize("script", [saying, pausing])
@pytest.mark.parametrize("interim", [(EARLY,), (CONTINUE,), (CONTINUE, EARLY, EARLY)])
def test_interim_answers_are_skipped(
    url: str, engines: Engines, script: Callable[..., Script], interim: tuple[bytes, ...]
) -> None:
    both(engines, script(*interim, ANSWER))
    for _ in range(4):
        answer = wire.ask(url, "GET", "/any")
        assert (answer.status, answer.json()) == (200, {"is": "this"})
        assert "link" not in answer.headers
    assert connections(engines) == 2, "one for each engine: they are used again"


def test_an_interim_answer_alone_is_none(url: str, engines: Engines) -> None:
    both(engines, then_closing(EARLY))
    answer = wire.ask(url, "POST", "/v1/unheard_of", {})
    assert (answer.status, answer.error["code"]) == (502, "upstream_reset")


# more than one answer


MORE = [OTHER, b"\r\n", b"x", b"HTTP/1.1 200 OK\r\n", scripted.head(103)]


@pytest.mark.parametrize("more", MORE)
@pytest.mark.parametrize(
    "answer",
    [ANSWER, STREAM + event(said("one")) + event(b"[DONE]") + END, scripted.head(204)],
    ids=["whole", "stream", "none"],
)
def test_what_follows_an_answer_reaches_nobody(url: str, engines: Engines, answer: bytes, more: bytes) -> None:
    both(engines, saying(answer, more))
    first = complete(url)
    assert first.status in (200, 204) and b"another's" not in first.body and not first.cut
    both(engines, saying(ANSWER))
    for _ in range(2):
        assert complete(url).json() == {"is": "this"}
    assert connections(engines) <= 3


@pytest.mark.parametrize("more", MORE)
def test_what_comes_while_nothing_was_asked_reaches_nobody(url: str, engines: Engines, more: bytes) -> None:
    left = []

    def late(peer: Peer, asked: Asked) -> None:
        peer.send(ANSWER)
        time.sleep(0.02)
        peer.send(more)
        left.append(peer.left())

    both(engines, late)
    assert complete(url).json() == {"is": "this"}
    programs.wait_until(lambda: left == [True], "the gateway closes the connection")
    both(engines, FINE)
    assert complete(url).json()["choices"]


# heads without end, and what is no HTTP


def head_of(size: int) -> bytes:
    return b"HTTP/1.1 200 OK\r\nx-long: " + b"y" * size + b"\r\ncontent-length: 0\r\n\r\n"


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(head_of(10 << 20), id="one long line"),
        pytest.param(b"HTTP/1.1 200 OK\r\n" + b"x-a: y\r\n" * 500_000 + b"\r\n", id="many lines"),
        pytest.param(b"HTTP/1.1 200 " + b"O" * (1 << 20) + b"\r\n\r\n", id="a long reason"),
        pytest.param(b"HTTP/1.1 200 OK\r\nx-long: " + b"y" * (1 << 20), id="no end at all"),
        pytest.param(head_of(65_000)[:-2] + b"x-more: " + b"y" * 2000 + b"\r\n\r\n", id="a little too much"),
    ],
)
def test_a_head_beyond_the_limit_is_502(url: str, engines: Engines, head: bytes) -> None:
    both(engines, saying(head))
    answer = wire.ask(url, "GET", "/any")
    assert (answer.status, answer.error["code"]) == (502, "upstream_garbage")


def test_a_long_head_within_the_limit_arrives(url: str, engines: Engines) -> None:
    both(engines, saying(head_of(60_000)))
    assert len(wire.ask(url, "GET", "/any").headers["x-long"]) == 60_000


@pytest.mark.parametrize(
    "said",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"<html>",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1\r\n\r\n",
        b"HTTP/9.9 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello!",
        b"HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/1.1 200 OK\r\nno colon here\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: a\x00b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: a\rb\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx : a\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n: a\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5, 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\ncontent-length: +5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\ncontent-length: 0x5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nhello",
        b"HTTP/2 200\r\n\r\n",
    ],
)
def test_what_is_not_http_is_502(url: str, engines: Engines, said: bytes) -> None:
    both(engines, then_closing(said))
    answer = wire.ask(url, "POST", "/v1/unheard_of", {})
    assert answer.status == 502
    assert answer.error["code"] in ("upstream_garbage", "upstream_reset")


@pytest.mark.parametrize("status", ["000", "099", "007", "101", "600", "999", "1000", "20", "-20", "2 0", "+20"])
def test_what_is_no_status_of_an_answer_is_502_at_once(url: str, engines: Engines, status: str) -> None:
    """The engine keeps the connection, so that nothing but the status says so."""
    both(engines, saying(f"HTTP/1.1 {status} X\r\ncontent-length: 2\r\n\r\nok".encode()))
    answer = wire.ask(url, "GET", "/any")
    assert (answer.status, answer.error["code"]) == (502, "upstream_garbage")


@pytest.mark.parametrize("status", ["102", "104", "199"])
def test_any_other_interim_answer_is_skipped(url: str, engines: Engines, status: str) -> None:
    both(engines, saying(f"HTTP/1.1 {status} X\r\nlink: x\r\n\r\n".encode(), ANSWER))
    assert wire.ask(url, "GET", "/any").json() == {"is": "this"}


@pytest.mark.parametrize("status", [204, 304])
@pytest.mark.parametrize(
    "framing", [{}, {"content_length": 5}, {"content_length": 0}, {"transfer_encoding": "chunked"}]
)
@pytest.mark.parametrize("body", [b"", b"hello", chunk(b"hello") + END])
def test_an_answer_without_a_body_is_a_head_alone(
    url: str, engines: Engines, status: int, framing: dict[str, Any], body: bytes
) -> None:
    both(engines, saying(scripted.head(status, **framing), body))
    with wire.line(url) as line:
        for _ in range(2):
            line.send(wire.request("GET", "/any"))
            head = line.read_until(b"\r\n\r\n").lower()
            assert head.startswith(b"http/1.1 %d " % status)
            assert b"content-length" not in head and b"transfer-encoding" not in head
        both(engines, saying(ANSWER))
        line.send(wire.request("GET", "/any"))
        assert line.answer().json() == {"is": "this"}, "nothing of it is left on the connection"


def test_garbage_within_a_begun_answer_ends_it_visibly(url: str, engines: Engines) -> None:
    both(engines, saying(STREAM, event(said("one")), b"xyz\r\n"))
    answer = complete(url, stream=True)
    assert not answer.cut
    assert b'"error"' in answer.body and b"[DONE]" not in answer.body and b"xyz" not in answer.body


# framing


@pytest.mark.parametrize("script", [saying, pausing])
def test_a_chunked_answer_arrives_without_its_extensions_and_trailers(
    url: str, engines: Engines, script: Callable[..., Script]
) -> None:
    head = scripted.head(content_type="text/plain", transfer_encoding="chunked", trailer="x-sum")
    pieces = (b"5;ext=1\r\nhello\r\n", b"1", b"\r\n \r\n0005\r\nwor", b"ld\r\n", b"0\r\nx-sum: 1\r\n\r\n")
    both(engines, script(head, *pieces))
    for _ in range(4):
        answer = wire.ask(url, "GET", "/any")
        assert (answer.body, answer.cut) == (b"hello world", False)
        assert not {"x-sum", "trailer"} & set(answer.headers)
    assert connections(engines) == 2


def test_a_body_that_ends_with_the_connection_is_whole_unless_it_is_reset(url: str, engines: Engines) -> None:
    head = scripted.head(content_type="text/plain")
    both(engines, then_closing(head, b"all of it"))
    answer = wire.ask(url, "GET", "/any")
    assert (answer.body, answer.cut) == (b"all of it", False)

    def reset(peer: Peer, asked: Asked) -> None:
        peer.send(head, b"not all of it")
        time.sleep(0.05)
        peer.reset()

    both(engines, reset)
    assert wire.ask(url, "GET", "/any").cut


def test_a_stream_that_ends_with_the_connection_needs_its_last_event(url: str, engines: Engines) -> None:
    head = scripted.head(content_type="text/event-stream")
    one = b'data: {"choices": [{"text": "one"}]}\n\n'
    both(engines, then_closing(head, one, b"data: [DONE]\n\n"))
    assert complete(url, stream=True).body == one + b"data: [DONE]\n\n"
    both(engines, then_closing(head, one))
    assert b'"error"' in complete(url, stream=True).body


def test_an_answer_byte_by_byte_is_understood(url: str, engines: Engines) -> None:
    answer = STREAM + event(said("one")) + event(said("two", "stop")) + event(b"[DONE]") + END

    def slowly(peer: Peer, asked: Asked) -> None:
        for byte in answer:
            peer.send(bytes((byte,)))

    both(engines, slowly)
    body = complete(url, stream=True).body
    assert body.count(b"data: ") == 3 and body.endswith(b"data: [DONE]\n\n")


# which connections are used again


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        (FINE, 2),
        (saying(STREAM, event(said("one")), event(b"[DONE]"), END), 2),
        (saying(whole(200, {}, connection="close")), 6),
        (saying(whole(500, {}, connection="close")), 6),
        (then_closing(whole(200, {})), 6),
        (saying(b"HTTP/1.0 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"), 6),
    ],
)
def test_a_connection_is_used_again_if_the_engine_keeps_it(
    url: str, engines: Engines, script: Script, expected: int
) -> None:
    both(engines, script)
    for _ in range(6):
        assert complete(url).status in (200, 500)
    assert connections(engines) == expected


class Listener:
    """An exchange whose end can be awaited for."""

    ended = False

    def on_head(self, status: int, headers: Headers) -> None:
        pass

    def on_chunk(self, data: bytes) -> bool:
        return False

    def on_body(self, data: bytes, complete: bool) -> None:
        self.ended = self.ended or complete

    def on_eof(self) -> None:
        self.ended = True

    def on_lost(self, error: UpstreamError) -> None:
        raise error


async def test_an_idle_connection_is_dropped_before_the_engine_does_so() -> None:
    async def used(connections: Connections, now: float) -> Connection:
        connection = await connections.connect()
        listener = Listener()
        connection.send(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n", listener, head_only=False)
        async with asyncio.timeout(programs.START_SECONDS):
            while not listener.ended:
                await asyncio.sleep(0.001)
        connections.give_back(connection, now)
        return connection

    with scripted.engine() as engine:
        connections = Connections(engine.url.removeprefix("http://"), connect_seconds=5)
        connection = await used(connections, 100.0)
        assert connections.idle(103.9) is connection
        connections.give_back(connection, 103.9)
        assert connections.idle(107.95) is None, "uvicorn closes after 5 s"
        assert connection.closed
        connections.close()


async def test_an_engine_whose_machine_vanished_is_noticed_by_the_kernel() -> None:
    """Nothing ends the connection then, and an engine that reads a long prompt is as silent."""
    with scripted.engine() as engine:
        connections = Connections(engine.url.removeprefix("http://"), connect_seconds=5)
        connection = await connections.connect()
        connected = connection.transport.get_extra_info("socket")
        assert connected.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        asks_after = connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)
        again_after = connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL)
        given_up_after = connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
        assert asks_after + again_after < given_up_after / 1000 <= 60
        connections.close()
