"""What becomes of an answer between an engine's reads and a client's bytes, however it is cut. No sockets."""

import asyncio
import itertools
import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted import END, STREAM, chunk, event, head, said

from dp_vllm.endpoints import Endpoint, EndpointSet
from dp_vllm.engine.routes import Dialect, route_of
from dp_vllm_gateway import bounds
from dp_vllm_gateway.asked import Asked
from dp_vllm_gateway.attempt import HOLD_BYTES, Attempt
from dp_vllm_gateway.call import Call
from dp_vllm_gateway.config import Limits
from dp_vllm_gateway.facts import Facts
from dp_vllm_gateway.heads import Incoming
from dp_vllm_gateway.outbox import Outbox
from dp_vllm_gateway.outcome import Aborted, Failed, Outcome, Passed
from dp_vllm_gateway.outgoing import Outgoing
from dp_vllm_gateway.pool import Pool
from dp_vllm_gateway.relay import Relay
from dp_vllm_gateway.retry import Failure
from dp_vllm_gateway.upstream import HEAD_BYTES, Connection

PATHS = {
    Dialect.COMPLETIONS: "/v1/completions",
    Dialect.RESPONSES: "/v1/responses",
    Dialect.MESSAGES: "/v1/messages",
    Dialect.OTHER: "/inference/v1/generate",
}


@dataclass
class Sink(asyncio.Transport):
    """A connection's transport that keeps what is written to it."""

    written: list[bytes] = field(default_factory=list)
    family = 1
    closed: bool = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return cast(Any, self)

    def write(self, data: Any) -> None:
        self.written.append(data)

    def abort(self) -> None:
        self.closed = True


@dataclass
class Client:
    """A client's connection as a relay sees it."""

    transport: Sink = field(default_factory=Sink)
    _paused = False


@dataclass(frozen=True)
class Relayed:
    """What became of an answer."""

    outcome: Outcome | None
    call: Call
    sent: bytes
    """What the client was sent, with its framing."""

    @property
    def body(self) -> bytes:
        """The body that the client was sent, of one in chunks."""
        _, _, rest = self.sent.partition(b"\r\n\r\n")
        body = b""
        while rest:
            size, _, rest = rest.partition(b"\r\n")
            body, rest = body + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
        return body


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as made:
        yield made


def relayed(runner: asyncio.Runner, reads: Sequence[bytes], dialect: Dialect = Dialect.COMPLETIONS) -> Relayed:
    """Let an engine's answer arrive in these reads."""

    async def arrive() -> Relayed:
        pool = Pool(connect_seconds=1, clock=asyncio.get_running_loop().time)
        pool.sync(EndpointSet(1, (Endpoint("0", "h:1"),)))
        (member,) = pool.members()
        out = Outgoing(
            method="POST",
            target="/",
            route=route_of("POST", PATHS[dialect]),
            lines=b"",
            body=b"",
            facts=Facts(stream=True),
            priority=0,
            rank=0,
            answer_lines=b"",
        )
        client, outbox, call = Client(), Outbox(), Call("id", "POST", "/", 0.0)
        relay = Relay(cast(Any, client), Asked("POST", "/", Incoming(b"", {}), b""), outbox)
        connection = Connection(lambda closed: None)
        connection.connection_made(Sink())
        with pool.lease(member, out.facts) as lease:
            attempt = Attempt(connection, relay, lease, call, out, Limits(), b"")
            connection.send(b"", attempt, head_only=False)
            for read in reads:
                if not connection.closed:
                    connection.data_received(read)
            outbox.flush()
        return Relayed(attempt._outcome, call, b"".join(client.transport.written))

    return runner.run(arrive())


def compact(value: Any) -> bytes:
    return b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"


def content(text: str, finish: str | None = None) -> bytes:
    return compact({"id": "cmpl-1", "model": "m", "choices": [{"index": 0, "text": text, "finish_reason": finish}]})


def usage_of(prompt: int, completion: int) -> dict[str, Any]:
    return {"prompt_tokens": prompt, "total_tokens": prompt + completion, "completion_tokens": completion}


DONE = b"data: [DONE]\n\n"
TEXTS = st.text(max_size=30) | st.sampled_from(
    ['"usage":{"prompt_tokens":9}', "data: [DONE]\n\n", "\n\n: comment", '{"choices":[{}]}', '"abort"', "x" * 3000]
)
COMMENTS = st.sampled_from([b": ping\n\n", b":\n\n", b": " + b"a long comment " * 10 + b"\n\n", b": a\n: b\n\n"])
ENGINES = {
    "vLLM": lambda usage: compact({"id": "cmpl-1", "choices": [], "usage": usage}),
    "usage first": lambda usage: compact({"usage": usage, "choices": [{"index": 0, "text": ""}]}),
    "spaces": lambda usage: b"data: " + json.dumps({"choices": [], "usage": usage}).encode() + b"\r\n\r\n",
    "more after it": lambda usage: compact({"choices": [], "usage": usage, "timings": [{"ms": [1]}]}),
}


@st.composite
def streams(draw: st.DrawFn) -> tuple[list[bytes], tuple[int, int]]:
    """The events of a completion's stream, comments among them, and the tokens that its engine counted."""
    tokens = draw(st.tuples(st.integers(1, 10**6), st.integers(1, 10**6)))
    usage = ENGINES[draw(st.sampled_from(sorted(ENGINES)))](usage_of(*tokens))
    events = [content(text) for text in draw(st.lists(TEXTS, min_size=1, max_size=4))]
    events += [content("", "stop"), usage, DONE]
    for _ in range(draw(st.integers(0, 3))):
        events.insert(draw(st.integers(1, len(events))), draw(COMMENTS))
    return events, tokens


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    """The same in pieces, none of them empty."""
    ends = [0, *sorted({place % len(data) for place in places} - {0}), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(ends)]


CUTS = st.lists(st.integers(0, 20_000), max_size=8)


@given(streams(), st.one_of(st.none(), CUTS), st.one_of(st.none(), CUTS))
def test_the_engines_numbers_are_known_however_a_stream_is_cut(
    runner: asyncio.Runner,
    stream: tuple[list[bytes], tuple[int, int]],
    chunks: list[int] | None,
    reads: list[int] | None,
) -> None:
    """None: each event is a chunk, and each chunk is a read."""
    events, tokens = stream
    body = b"".join(events)
    pieces = [chunk(piece) for piece in (events if chunks is None else cut(body, chunks))]
    arriving = [STREAM, *pieces, END] if reads is None else cut(STREAM + b"".join(pieces) + END, reads)
    result = relayed(runner, arriving)
    assert result.outcome is Passed.COMPLETE
    assert (result.call.prompt_tokens, result.call.completion_tokens) == tokens
    assert result.body == body


def test_every_place_to_cut_a_stream_in_two_is_as_good(runner: asyncio.Runner) -> None:
    events = [content("a"), content("b", "stop"), ENGINES["vLLM"](usage_of(12, 345)), DONE, b": bye\n\n"]
    whole = STREAM + b"".join(map(chunk, events)) + END
    for place in range(1, len(whole)):
        result = relayed(runner, [whole[:place], whole[place:]])
        assert result.outcome is Passed.COMPLETE and result.body == b"".join(events)
        assert (result.call.prompt_tokens, result.call.completion_tokens) == (12, 345)


SAMPLES = Path(__file__).parents[1] / "vllm" / "samples"


@pytest.mark.parametrize(
    ("name", "dialect", "tokens"),
    [("responses", Dialect.RESPONSES, (15, 8)), ("messages", Dialect.MESSAGES, (15, 8))],
)
@pytest.mark.parametrize("more", [[], [b": a comment after the end, long enough to be taken for content\n\n"]])
def test_recorded_streams_tell_their_usage(
    runner: asyncio.Runner, name: str, dialect: Dialect, tokens: tuple[int, int], more: list[bytes]
) -> None:
    body = (SAMPLES / f"whole-{name}-stream.txt").read_bytes().partition(b"\n\n")[2]
    events = [event + b"\n\n" for event in body.split(b"\n\n")[:-1]] + more
    result = relayed(runner, [STREAM, *map(chunk, events), END], dialect)
    assert result.outcome is Passed.COMPLETE and result.body == b"".join(events)
    assert (result.call.prompt_tokens, result.call.completion_tokens) == tokens


@pytest.mark.parametrize("number", ["-5", "1e3", '"7"', "null", "7.5"])
def test_what_is_no_count_of_tokens_is_none(runner: asyncio.Runner, number: str) -> None:
    usage = b'data: {"choices":[],"usage":{"prompt_tokens":%b,"completion_tokens":3}}\n\n' % number.encode()
    result = relayed(runner, [STREAM, chunk(content("a")), chunk(usage), chunk(DONE), END])
    assert result.outcome is Passed.COMPLETE
    assert (result.call.prompt_tokens, result.call.completion_tokens) == (0, 3)


def test_a_number_of_any_length_is_bounded(runner: asyncio.Runner) -> None:
    usage = b'data: {"choices":[],"usage":{"prompt_tokens":%b,"completion_tokens":3}}\n\n' % (b"9" * 5000)
    call = relayed(runner, [STREAM, chunk(content("a")), chunk(usage), chunk(DONE), END]).call
    assert (call.prompt_tokens, call.completion_tokens) == (bounds.MOST_TOKENS, 3)


def test_a_large_json_answer_tells_its_usage(runner: asyncio.Runner) -> None:
    text = "x" * (HOLD_BYTES + 5000)
    body = json.dumps({"choices": [{"text": text}], "usage": usage_of(12345, 678), "rest": [1] * 50_000}).encode()
    whole = head(content_type="application/json", content_length=len(body)) + body
    at = whole.index(b"12345")
    for place in (at - 900, at - 3, at, at + 2, at + 5, at + 40):
        result = relayed(runner, [whole[: HOLD_BYTES + 2000], whole[HOLD_BYTES + 2000 : place], whole[place:]])
        assert result.outcome is Passed.COMPLETE and result.sent.endswith(body)
        assert (result.call.prompt_tokens, result.call.completion_tokens) == (12345, 678)


# without end


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("piece", [b"x" * 60, b"data: x\n" * 4])
def test_an_event_without_end_is_passed_on_unread(runner: asyncio.Runner, piece: bytes, begun: bool) -> None:
    pieces = [STREAM, *([chunk(content("a"))] if begun else [])]
    began = time.process_time()
    result = relayed(runner, [*pieces, *[chunk(piece)] * (2 * HOLD_BYTES // len(piece) + 1)])
    assert time.process_time() - began < 3.0, "in proportion to its length: 0.3 s, not 30"
    assert result.outcome is None and len(result.sent) > HOLD_BYTES


@pytest.mark.parametrize("piece", [b": ping\n\n", b"event: ping\n\n"])
def test_comments_without_end_before_the_first_event_are_no_answer(runner: asyncio.Runner, piece: bytes) -> None:
    result = relayed(runner, [STREAM, *[chunk(piece * 1000)] * (HOLD_BYTES // len(piece) // 1000 + 1)])
    assert result.outcome == Failed(Failure.GARBAGE, f"sent {HOLD_BYTES} bytes of comments and no event")
    assert not result.sent


@pytest.mark.parametrize(
    "more",
    [
        pytest.param([b"x-trailer: " + b"y" * 1000 + b"\r\n"] * 70, id="trailers"),
        pytest.param([b"x-trailer: " + b"y" * 70_000], id="a trailer"),
        pytest.param([b"5;" + b"x" * 70_000], id="a chunk's extension"),
    ],
)
def test_what_is_no_part_of_a_body_is_bounded(runner: asyncio.Runner, more: list[bytes]) -> None:
    before = [STREAM, chunk(content("a")), *([b"0\r\n"] if more[0].startswith(b"x") else [])]
    result = relayed(runner, [*before, *more])
    assert sum(map(len, more)) > HEAD_BYTES
    assert result.outcome is Passed.BROKEN
    assert b"the replica failed while it answered" in result.body


# an abort


ABORT = [
    event(said("one")),
    event(said("", "abort")),
    event({"choices": [], "usage": usage_of(5, 1)}),
    event(b"[DONE]"),
]


@pytest.mark.parametrize("first", [0, 1], ids=["in the middle", "at once"])
def test_from_an_abort_on_a_stream_is_held(runner: asyncio.Runner, first: int) -> None:
    result = relayed(runner, [STREAM, *ABORT[first:], END])
    assert isinstance(result.outcome, Aborted) and result.outcome.whole is None
    assert b"abort" not in result.sent
    assert (b"one" in result.sent) == (first == 0)


# time


@pytest.mark.parametrize(
    ("limit", "stream", "seconds"),
    [(0.0, True, 600.0), (0.0, False, math.inf), (0.5, True, 0.5), (0.5, False, 0.5), (3600.0, True, 3600.0)],
)
def test_how_long_the_first_byte_of_an_answer_may_take(limit: float, stream: bool, seconds: float) -> None:
    assert Limits(first_byte_seconds=limit).first_byte(stream=stream) == seconds
