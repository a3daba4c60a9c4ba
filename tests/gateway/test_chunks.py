"""Chunks that go on as they are framed: whatever the engine's reads look like, the body is the same."""

import asyncio
import itertools
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
import wire
from hypothesis import given
from hypothesis import strategies as st
from scripted import END, STREAM, Asked, Engines, Peer, chunk, event, said

from dp_vllm_gateway.upstream import CHUNK_HEADERS, Connection, Headers, UpstreamError

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


class Wire(asyncio.Transport):
    """A transport that goes nowhere."""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return cast(Any, self)

    family = 1

    def write(self, data: Any) -> None:
        pass

    def abort(self) -> None:
        pass


@dataclass
class Listener:
    """An exchange that takes chunks as they are, or not."""

    takes: bool
    body: bytes = b""
    framed: int = 0
    ended: bool = False
    errors: list[UpstreamError] = field(default_factory=list)

    def on_head(self, status: int, headers: Headers) -> None:
        assert status == 200

    def on_body(self, data: bytes, complete: bool) -> None:
        self.body += data
        self.ended = complete

    def on_chunk(self, data: bytes) -> bool:
        if self.takes:
            header, _, rest = data.partition(b"\r\n")
            assert rest.endswith(b"\r\n") and len(rest) - 2 == int(header, 16)
            self.body += rest[:-2]
            self.framed += 1
        return self.takes

    def on_eof(self) -> None:
        raise AssertionError("the framing says where it ends")

    def on_lost(self, error: UpstreamError) -> None:
        self.errors.append(error)


def heard(reads: list[bytes], *, takes: bool = True) -> Listener:
    """What becomes of an answer that arrives in these reads."""
    listener = Listener(takes)
    connection = Connection(lambda closed: None)
    connection.connection_made(Wire())
    connection.send(b"", listener, head_only=False)
    for read in reads:
        connection.data_received(read)
    assert connection.reusable() == (listener.ended and not listener.errors)
    return listener


def framed(data: bytes, style: str) -> bytes:
    size = {"plain": b"%x", "upper": b"%X", "zeros": b"0%x", "extended": b"%x;a=b"}[style] % len(data)
    return size + b"\r\n" + data + b"\r\n"


PIECES = st.binary(min_size=1, max_size=40) | st.sampled_from([b"5\r\nhello\r\n", b"\r\n", b"x" * 255, b"y" * 2100])
STYLES = st.sampled_from(["plain"] * 5 + ["upper", "zeros", "extended"])


@given(st.lists(st.tuples(PIECES, STYLES), max_size=12), st.lists(st.integers(0, 3000), max_size=12), st.booleans())
def test_however_it_is_read_the_body_is_the_same(pieces: list[tuple[bytes, str]], cuts: list[int], takes: bool) -> None:
    whole = HEAD + b"".join(framed(*piece) for piece in pieces) + b"0\r\n\r\n"
    places = [0, *sorted(cut % len(whole) for cut in cuts), len(whole)]
    reads = [whole[start:end] for start, end in itertools.pairwise(places) if start < end]
    listener = heard(reads, takes=takes)
    assert listener.body == b"".join(data for data, _ in pieces)
    assert listener.ended and not listener.errors


def test_a_chunk_a_read_goes_on_as_it_is_after_the_first() -> None:
    events = [b'data: {"n": %d}\n\n' % number for number in range(10)]
    listener = heard([HEAD, *(framed(one, "plain") for one in events), b"0\r\n\r\n"])
    assert listener.framed == 9 and listener.body == b"".join(events) and listener.ended


@pytest.mark.parametrize("garbage", [b"zz\r\nhello\r\n", b"-5\r\nhello\r\n", b"\r\n\r\n"])
def test_what_is_no_chunk_is_garbage_after_chunks_too(garbage: bytes) -> None:
    listener = heard([HEAD, framed(b"one", "plain"), framed(b"two", "plain"), garbage])
    assert listener.errors and listener.body == b"onetwo"


ODD_SIZES = [b"0x5", b"+5", b"-5", b" 5", b"5 5", b"5,", b"", b"5\n", b"\n5", b"g", b"FFFFFFFFFFFFFFFFF", b"1" * 17]


@pytest.mark.parametrize("size", ODD_SIZES)
@pytest.mark.parametrize("before", [0, 1, 2])
def test_what_is_no_size_of_a_chunk_is_garbage(size: bytes, before: int) -> None:
    listener = heard([HEAD, *[framed(b"one", "plain")] * before, size + b"\r\nhello\r\n"])
    assert listener.errors and listener.body == b"one" * before


def test_what_begins_with_nul_is_no_chunk_whatever_its_length() -> None:
    """Of some lengths no chunk with the shortest possible size can be."""
    for length in range(1, len(CHUNK_HEADERS) + 2):
        listener = heard([HEAD, framed(b"one", "plain"), (b"\0" * length + b"\r\n")[-length:]])
        assert listener.body == b"one" and listener.framed == 0


@given(st.integers(1, 5000))
def test_a_chunk_is_recognised_by_its_length(size: int) -> None:
    whole = framed(b"x" * size, "plain")
    if len(whole) < len(CHUNK_HEADERS):
        assert whole.startswith(CHUNK_HEADERS[len(whole)])


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_client_of_any_version_gets_the_same_events(url: str, engines: Engines, version: str) -> None:
    texts = [f"word {number}" for number in range(20)]

    def script(peer: Peer, asked: Asked) -> None:
        peer.send(STREAM)
        for text in texts:
            peer.send(event(said(text)))
        peer.send(chunk(b"data: [DONE]\n\n"), END)

    for engine in engines:
        engine.script = script
    with wire.line(url) as line:
        line.send(wire.request("POST", "/v1/completions", b'{"prompt": "x", "stream": true}', version=version))
        answer = line.answer("POST")
    assert [one for one in texts if f'"text": "{one}"'.encode() in answer.body] == texts
    assert answer.body.endswith(b"data: [DONE]\n\n") and not answer.cut
