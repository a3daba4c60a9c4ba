"""Random requests on a connection: however their bytes are cut, the gateway answers what h11 reads."""

import asyncio
import contextlib
import random
from typing import NamedTuple

import fuzzing
import h11
import pytest
from aiohttp import StreamReader, web

from dp_vllm_gateway.asked import Asked
from dp_vllm_gateway.clients import Server
from dp_vllm_gateway.crowd import Crowd
from dp_vllm_gateway.relay import Relay

pytestmark = pytest.mark.fuzz

REQUESTS = (
    b"GET /a HTTP/1.1\r\nhost: a\r\n\r\n",
    b"POST /b HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
    b"POST /c HTTP/1.1\r\nhost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"2;x=y\r\n{}\r\na\r\n0123456789\r\n0\r\nx: y\r\n\r\n",
    b"POST /d HTTP/1.1\r\nhost: a\r\nconnection: Upgrade\r\nupgrade: h2c\r\ncontent-length: 2\r\n\r\n{}",
    b"POST /f HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n\r\n\r\n",
)
LAST = (
    b"PUT /e HTTP/1.0\r\ncontent-length: 1\r\n\r\nx",
    b"DELETE /g HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
)
PIECES = (
    *(b"\r\n", b"\n", b"\r\n\r\n", b" ", b"\0", b"0\r\n\r\n", b"GET /x HTTP/1.1\r\nhost: a\r\n\r\n", b"chunked"),
    *(b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n", b"Upgrade: websocket\r\n"),
)


class Seen(NamedTuple):
    """A request as its handler has it."""

    method: str
    target: str
    body: bytes


def read_by_h11(data: bytes) -> tuple[list[Seen], bool]:
    """The whole requests at the beginning, and whether h11 refuses what follows."""
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(data)
    seen: list[Seen] = []
    try:
        while isinstance(request := connection.next_event(), h11.Request):
            body = b""
            while isinstance(event := connection.next_event(), h11.Data):
                body += event.data
            if not isinstance(event, h11.EndOfMessage):
                return seen, event is h11.PAUSED
            seen.append(Seen(request.method.decode(), request.target.decode(), body))
            if connection.their_state is h11.MUST_CLOSE:
                return seen, False
            connection.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
            connection.send(h11.EndOfMessage())
            if connection.our_state is not h11.DONE:
                return seen, False
            connection.start_next_cycle()
    except h11.RemoteProtocolError:
        return seen, True
    return seen, False


class Connection:
    """A server, and what its handler has seen of the connection that is tried."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []

    async def listen(self) -> asyncio.Server:
        server = Server(self._handle, idle_client_seconds=60.0, crowd=Crowd(1000))
        return await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0)

    async def _handle(self, asked: Asked, relay: Relay) -> None:
        body = asked.body
        if isinstance(body, StreamReader):
            try:
                body = await body.read()
            except web.RequestPayloadError:
                relay.whole(400, b"", b"")
                return
        self.seen.append(Seen(asked.method, asked.target, body))
        relay.whole(200, b"", b"")

    async def tried(self, port: int, pieces: list[bytes], expected: int) -> None:
        """Send the pieces, and wait until as many requests as expected were seen, or as no more will be."""
        self.seen = []
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for piece in pieces:
            writer.write(piece)
            await turns(3)
        waited = 0
        while len(self.seen) < expected and not reader.at_eof() and waited < 300:
            await turns(1)
            waited += 1
        await turns(5)  # one more than expected would be seen now
        writer.transport.abort()


async def turns(number: int) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


def cut(rng: random.Random, data: bytes) -> list[bytes]:
    at = sorted(rng.randrange(len(data) + 1) for _ in range(rng.choice((0, 1, 2, 5))))
    return [data[begin:end] for begin, end in zip([0, *at], [*at, len(data)], strict=True)]


def test_what_is_served_is_what_h11_reads(seconds: float) -> None:
    with asyncio.Runner() as runner, contextlib.ExitStack() as stack:
        connection = Connection()
        server = runner.run(connection.listen())
        stack.callback(server.close)
        port = server.sockets[0].getsockname()[1]

        def check(rng: random.Random) -> None:
            data = valid = b"".join(rng.choices(REQUESTS, k=rng.choice((0, 1, 2)))) + rng.choice((*REQUESTS, *LAST))
            if rng.randrange(2):
                data = fuzzing.mutated(rng, valid, PIECES)
            expected, refused = read_by_h11(data)
            runner.run(connection.tried(port, cut(rng, data), len(expected)))
            seen = connection.seen[: len(expected)] if refused else connection.seen
            assert seen == expected[: len(seen)], data
            closed = b"chunked" in data and b"h2c" in data  # what follows both in one piece, and the client knows
            assert data is not valid or seen == expected or closed, data

        fuzzing.fuzz(check, seconds)
