"""Heads that are read without aiohttp's parser: which ones, and that aiohttp understands them alike."""

import asyncio
from typing import Any

import pytest
import scripted
import wire
from aiohttp import web
from aiohttp.http_parser import HttpRequestParser
from aiohttp.web_protocol import RequestHandler
from hypothesis import example, given
from hypothesis import strategies as st
from scripted import Engines

from dp_vllm_gateway import headers, plain
from dp_vllm_gateway.plain import PlainHeads

BODY = b'{"prompt": "x"}'


def test_what_the_official_client_sends_is_plain() -> None:
    head = (
        b"POST /v1/chat/completions?a=b HTTP/1.1\r\nHost: 127.0.0.1:8000\r\nAccept-Encoding: gzip, deflate\r\n"
        b"Connection: keep-alive\r\nX-Empty:\r\nX-Spaces: \t a b \t \r\nAuthorization: Bearer key\r\n"
        b"Content-Length: 15\r\n\r\n"
    )
    read = PlainHeads().read(head + BODY)
    assert read is not None
    method, target, incoming, begin, length = read
    assert (method, target, begin, length) == ("POST", "/v1/chat/completions?a=b", len(head), 15)
    assert incoming.lines == b"Accept-Encoding: gzip, deflate\r\nX-Empty: \r\nX-Spaces: a b\r\n"
    assert incoming.read == {
        b"host": b"127.0.0.1:8000",
        b"connection": b"keep-alive",
        b"authorization": b"Bearer key",
        b"content-length": b"15",
    }


NOT_PLAIN = {
    "a head without end": b"GET / HTTP/1.1\r\nHost: a\r\nhost: x\r\n",
    "an old version": b"GET / HTTP/1.0\r\n\r\n",
    "a URL": b"GET http://x/ HTTP/1.1\r\nHost: a\r\n\r\n",
    "a fragment": b"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n",
    "an unknown method": b"BREW / HTTP/1.1\r\nHost: a\r\n\r\n",
    "a method in small letters": b"get / HTTP/1.1\r\nHost: a\r\n\r\n",
    "chunks": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a client that waits": b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n",
    "an upgrade": b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    "a last request": b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    "two lengths": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two kinds of content": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Type: a\r\ncontent-type: a\r\n\r\n",
    "two user agents": b"GET / HTTP/1.1\r\nHost: a\r\nUser-Agent: a\r\nUser-Agent: b\r\n\r\n",
    "another connection header": b"GET / HTTP/1.1\r\nHost: a\r\nProxy-Connection: close\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "a length with a sign": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\nx",
    "a length of other digits": "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \u0661\r\n\r\nx".encode(),
    "a line feed alone": b"GET / HTTP/1.1\r\nHost: a\r\nx-a: b\nx-c: d\r\n\r\n",
    "a folded line": b"GET / HTTP/1.1\r\nHost: a\r\nx-a: b\r\n c\r\n\r\n",
    "a space before the colon": b"GET / HTTP/1.1\r\nHost: a\r\nx-a : b\r\n\r\n",
    "a name that is empty": b"GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n",
    "a zero byte": b"GET / HTTP/1.1\r\nHost: a\r\nx-a: b\0\r\n\r\n",
    "many lines": b"GET / HTTP/1.1\r\nHost: a\r\n" + b"x-a: b\r\n" * plain.MOST_LINES + b"\r\n",
    "a long line": b"GET / HTTP/1.1\r\nHost: a\r\nx-a: " + b"b" * plain.HEAD_BYTES + b"\r\n\r\n",
}


@pytest.mark.parametrize("head", NOT_PLAIN.values(), ids=NOT_PLAIN)
def test_anything_else_is_not(head: bytes) -> None:
    assert PlainHeads().read(head) is None


def test_a_line_that_is_seen_again_says_the_same() -> None:
    heads = PlainHeads()
    first = heads.read(b"GET /a HTTP/1.1\r\nhost: a\r\nx-session-id: 1\r\nx-b: c\r\n\r\n")
    assert first is not None
    for number in range(3 * plain.MOST_KEPT):
        target, line = b"/%d" % number, b"x-%d: %d" % (number, number)
        told = heads.read(b"GET %b HTTP/1.1\r\nhost: a\r\n%b\r\n\r\n" % (target, line))
        assert told is not None
        assert (told[1].encode(), told[2].lines) == (target, line + b"\r\n")
    assert heads.read(b"GET /a HTTP/1.1\r\nhost: a\r\nx-session-id: 1\r\nx-b: c\r\n\r\n") == first
    assert len(heads._lines) <= plain.MOST_KEPT
    assert len(heads._firsts) <= plain.MOST_KEPT


# beside aiohttp's parser

PIECES = (
    *(
        b"GET",
        b"POST",
        b" ",
        b"  ",
        b"/",
        b"/v1?a=%20",
        b"HTTP/1.1",
        b"HTTP/1.0",
        b"\r\n",
        b"\n",
        b"\r",
        b"\t",
        b":",
        b": ",
    ),
    *(b"x-a", b"X-B_c", b"Host", b"Content-Length", b"Connection", b"Transfer-Encoding", b"Expect", b"x-session-id"),
    *(b"keep-alive", b"close", b"chunked", b"upgrade", b"0", b"5", b"hello", b"\0", b"\xe9", b'"', b"#", b"\x7f", b","),
)
NAMES = st.sampled_from(
    [
        b"host",
        b"etag",
        b"User-Agent",
        b"Content-Type",
        b"content-encoding",
        b"x-a",
        b"X-Session-Id",
        b"content-length",
        b"Connection",
        b"te",
        b"x a",
        b"Cookie",
    ]
)
VALUES = st.sampled_from(
    [b"", b"5", b"a b", b" a\t", b"keep-alive", b"Keep-Alive, x", b"close", b"\xff", b"a\x0bb", b"05"]
)
LINES = st.lists(st.tuples(NAMES, st.sampled_from([b":", b": ", b" :", b":\t "]), VALUES).map(b"".join), max_size=5)
REQUESTS = st.one_of(
    st.lists(st.sampled_from(PIECES), max_size=30).map(lambda pieces: b"".join(pieces) + b"\r\n\r\n"),
    LINES.map(lambda lines: b"\r\n".join([b"POST /a%b?c HTTP/1.1", b"host: a", *lines, b"", b"hello"])),
)


def understood(data: bytes) -> list[Any]:
    """What aiohttp's parser makes of it. Raises its errors."""

    async def parse() -> list[Any]:
        loop = asyncio.get_running_loop()
        given = {"max_line_size": 65536, "max_field_size": 65536, "max_headers": 256, "auto_decompress": False}
        protocol = RequestHandler(web.Server(unused), loop=loop, **given)  # type: ignore[arg-type]
        parser = HttpRequestParser(protocol, loop, 65536, **given)  # type: ignore[arg-type]
        return list(parser.feed_data(data)[0])

    return asyncio.run(parse())


async def unused(request: web.BaseRequest) -> web.StreamResponse:
    raise AssertionError


@given(REQUESTS)
@example(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 05\r\n\r\nhello")
@example(b"GET /\x7f HTTP/1.1\r\nhost: a\r\n\r\n")
def test_what_is_plain_is_the_same_request_for_aiohttp(data: bytes) -> None:
    read = PlainHeads().read(data)
    if read is None:
        return
    method, target, incoming, begin, length = read
    ((message, payload),) = understood(data[: begin + length])
    assert (message.method, message.path) == (method, target)
    assert headers.incoming(message.raw_headers) == incoming
    assert message.version == (1, 1)
    assert not (message.should_close or message.upgrade or message.chunked or message.compression)
    assert payload.total_bytes == len(data[begin : begin + length])
    assert payload.is_eof() == (len(data) >= begin + length)


# on a connection


def echo(peer: scripted.Peer, one: scripted.Asked) -> None:
    peer.send(scripted.whole(200, {"target": one.target, "body": one.body.decode()}))


def test_a_connection_that_is_not_plain_any_more_goes_on(url: str, engines: Engines) -> None:
    for engine in engines:
        engine.script = echo
    chunked = b"POST /chunked HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n2\r\nyz\r\n0\r\n\r\n"
    with wire.line(url) as line:
        for sent, target, body in (
            (wire.request("POST", "/plain", b"x" * 300_000), "/plain", "x" * 300_000),
            (wire.request("GET", "/none"), "/none", ""),
            (chunked, "/chunked", "yz"),
            (wire.request("POST", "/plain", b"z"), "/plain", "z"),
        ):
            line.send(sent)
            assert line.answer().json() == {"target": target, "body": body}


@pytest.mark.parametrize("after", [b"", b"POST /plain HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\nz"])
def test_a_body_in_pieces_ends_where_its_length_says(url: str, engines: Engines, after: bytes) -> None:
    for engine in engines:
        engine.script = echo
    with wire.line(url) as line:
        line.send(b"POST /first HTTP/1.1\r\nhost: x\r\ncontent-length: 6\r\n\r\n")
        line.send(b"abc")
        line.send(b"def" + after)
        assert line.answer().json() == {"target": "/first", "body": "abcdef"}
        if after:
            assert line.answer().json() == {"target": "/plain", "body": "z"}
        else:
            line.send(b"?\r\n\r\n")
            assert line.answer().status == 400
