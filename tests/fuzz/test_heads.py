"""Random request heads: what the plain reader takes, llhttp (of aiohttp and of httptools) and h11 read alike."""

import asyncio
import random
from collections.abc import Iterator
from typing import Any, NamedTuple

import fuzzing
import h11
import httptools
import pytest
from aiohttp import web
from aiohttp.http_parser import HttpRequestParser
from aiohttp.web_protocol import RequestHandler

from dp_vllm_gateway import headers
from dp_vllm_gateway.heads import Incoming
from dp_vllm_gateway.plain import PlainHeads

pytestmark = pytest.mark.fuzz

REQUESTS = (
    b"GET /v1/models HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1:8000\r\nContent-Type: application/json\r\n"
    b"Authorization: Bearer key\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nhello",
    b"POST /v1/chat/completions?a=%20 HTTP/1.1\r\nhost: a\r\nX-Session-Id: 1\r\nAccept: */*\r\n"
    b"User-Agent: b\r\ncontent-length:2\r\n\r\n{}GET / HTTP/1.1\r\nhost: a\r\n\r\n",
    b"POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade, x-a\r\nupgrade: h2c\r\nx-a: 1\r\n\r\n",
)
PIECES = (
    *(b"\r\n", b"\n", b"\r", b"\r\n\r\n", b" ", b"\t", b":", b": ", b"\0", b"\x7f", b"\xff", b'"', b"#", b",", b";"),
    *(b"GET ", b"HEAD ", b"CONNECT ", b"PRI ", b" HTTP/1.0", b" HTTP/1.1", b"http://a/", b"*", b"//", b"%00", b"+1"),
    *(
        b"Content-Length: 1\r\n",
        b"Content-Length: 0, 0\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Expect: 100-continue",
    ),
    *(b"Connection: close\r\n", b"Proxy-Connection: close\r\n", b"Upgrade: websocket\r\n", b"Host: b\r\n", b"etag: "),
    *(b"Keep-Alive: 1\r\n", b"TE: trailers\r\n", b"keep-alive", b"upgrade", b"x-a:\r\n b\r\n", b"X_b: c\r\n"),
)


class Understood(NamedTuple):
    """What a reader makes of the first request of some bytes."""

    method: bytes
    target: bytes
    headers: list[tuple[bytes, bytes]]
    """In the order and the case in which they came."""
    body: bytes
    """What there is of it."""


class Llhttp:
    """As engines read: uvicorn uses httptools. Raises its errors."""

    def __init__(self, data: bytes) -> None:
        self._url = self._body = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._messages = 0
        parser = httptools.HttpRequestParser(self)
        parser.feed_data(data)
        self.understood = Understood(parser.get_method(), self._url, self._headers, self._body)

    def on_message_begin(self) -> None:
        self._messages += 1
        assert self._messages == 1, "one request is read as two"

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value.rstrip(b" \t")))

    def on_body(self, body: bytes) -> None:
        self._body += body


def of_h11(data: bytes) -> Understood:
    """What h11 makes of it. Raises its errors."""
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(data)
    request = connection.next_event()
    assert isinstance(request, h11.Request)
    body = b""
    while isinstance(event := connection.next_event(), h11.Data):
        body += event.data
    assert connection.trailing_data[0] == b"", "a part of the body is read as the next request"
    return Understood(request.method, request.target, request.headers.raw_items(), body)


async def unused(request: web.BaseRequest) -> web.StreamResponse:
    raise AssertionError


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


class Aiohttp:
    """aiohttp's parser, which reads what the plain reader leaves."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._limits: Any = {"max_line_size": 65536, "max_field_size": 65536, "max_headers": 256}
        self._protocol = RequestHandler(web.Server(unused, loop=loop), loop=loop, **self._limits)

    def read(self, data: bytes) -> list[Any]:
        """Its messages and their bodies. Raises its errors."""
        given = {**self._limits, "auto_decompress": False}
        return list(HttpRequestParser(self._protocol, self._loop, 65536, **given).feed_data(data)[0])


def request(rng: random.Random) -> bytes:
    return fuzzing.mutated(rng, rng.choice(REQUESTS), PIECES)


def test_what_is_plain_is_the_same_request_for_every_reader(seconds: float, loop: asyncio.AbstractEventLoop) -> None:
    heads = PlainHeads()
    aiohttp = Aiohttp(loop)
    plain = 0

    def check(rng: random.Random) -> None:
        nonlocal plain
        data = request(rng)
        head = heads.read(data)
        assert head == PlainHeads().read(data), "what was remembered changes what is read"
        if head is None:
            return
        plain += 1
        method, target, incoming, begin, length = head
        whole = data[: begin + length]
        ((message, payload),) = aiohttp.read(whole)
        assert (message.method, message.path) == (method, target)
        assert headers.incoming(message.raw_headers) == incoming
        assert not (message.should_close or message.upgrade or message.chunked or message.compression)
        assert payload.total_bytes == len(whole) - begin
        for understood in (Llhttp(whole).understood, of_h11(whole)):
            assert (understood.method.decode(), understood.target.decode()) == (method, target)
            assert headers.incoming(understood.headers) == incoming
            assert understood.body == whole[begin:]

    cases = fuzzing.fuzz(check, seconds)
    assert cases < 1000 or plain > cases // 100, "hardly any case is plain, so nothing was compared"


def test_what_an_engine_is_sent_is_what_the_plain_reader_took(seconds: float) -> None:
    """The lines that go on are read by llhttp and h11 as the same headers, whatever the client's were."""

    def check(rng: random.Random) -> None:
        head = PlainHeads().read(request(rng))
        if head is None:
            return
        incoming: Incoming = head[2]
        sent = b"GET / HTTP/1.1\r\nhost: engine\r\n%bcontent-length: 0\r\n\r\n" % incoming.lines
        copied = [line.partition(b": ") for line in incoming.lines.splitlines()]
        expected = [
            (b"host", b"engine"),
            *((name, value) for name, _, value in copied),
            (b"content-length", b"0"),
        ]
        assert Llhttp(sent).understood.headers == expected
        assert of_h11(sent).headers == expected

    fuzzing.fuzz(check, seconds)
