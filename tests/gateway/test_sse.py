"""Where events end and what they mean, whatever pieces they arrive in."""

import json
from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dp_vllm.engine.routes import Dialect
from dp_vllm_gateway import sse
from dp_vllm_gateway.sse import Kind

TEXTS = st.text(st.characters(codec="utf-8"), max_size=8)
JSON_LINES = st.dictionaries(TEXTS, TEXTS, max_size=2).map(lambda value: b"data: " + json.dumps(value).encode())
LINES = st.one_of(
    JSON_LINES,
    st.sampled_from([b": comment", b":", b"event: x", b"id: 7", b"retry: 5", b"data:", b"data: [DONE]", b"data:{}"]),
)
NEW_LINES = st.sampled_from([b"\n", b"\r\n"])


@st.composite
def streams(draw: st.DrawFn) -> list[bytes]:
    """The events of a stream."""
    events = []
    for lines in draw(st.lists(st.lists(LINES, min_size=1, max_size=3), max_size=5)):
        new_line = draw(NEW_LINES)
        events.append(new_line.join(lines) + new_line * 2)
    return events


def arriving(pieces: list[bytes]) -> Iterator[bytes]:
    """The events as they become whole."""
    tail = b""
    for piece in pieces:
        whole, tail = sse.split(tail + piece)
        yield from sse.events(whole)
    assert not tail


@given(streams())
def test_split_at_any_byte_the_events_are_the_same(events: list[bytes]) -> None:
    stream = b"".join(events)
    for at in range(len(stream) + 1):
        assert list(arriving([stream[:at], stream[at:]])) == events


@given(streams(), st.data())
def test_split_into_any_pieces_the_events_are_the_same(events: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(events)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(stream)))))
    pieces = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert list(arriving(pieces)) == events
    assert list(arriving([bytes((byte,)) for byte in stream])) == events


@given(st.binary())
def test_nothing_is_lost_in_dividing(data: bytes) -> None:
    whole, tail = sse.split(data)
    assert whole + tail == data
    assert b"\n\n" not in tail and b"\n\r\n" not in tail


@given(st.binary(), st.sampled_from(Dialect))
def test_any_bytes_have_a_meaning(event: bytes, dialect: Dialect) -> None:
    assert isinstance(sse.kind_of(event, dialect), Kind)


C, R, M, O = Dialect.COMPLETIONS, Dialect.RESPONSES, Dialect.MESSAGES, Dialect.OTHER  # noqa: E741
KINDS = [
    (b": keep-alive", (C, R, M, O), Kind.COMMENT),
    (b"event: ping", (C, R, M, O), Kind.COMMENT),
    (b"data:", (C, R, M, O), Kind.COMMENT),
    (b"data: [DONE]", (C, R, M, O), Kind.END),
    (b"data:[DONE]", (C, R, M, O), Kind.END),
    (b"data: not JSON", (C, R, M, O), Kind.CONTENT),
    (b"data: \xff", (C, R, M, O), Kind.CONTENT),
    (b"data: 5", (C, R, M, O), Kind.CONTENT),
    (b'data: {"choices": [{"delta": {"content": "x"}, "finish_reason": null}]}', (C, R, M, O), Kind.CONTENT),
    (b'data: {"choices": [{"finish_reason": "stop"}]}', (C,), Kind.CONTENT),
    (b'data: {"choices": [], "usage": {}}', (C,), Kind.CONTENT),
    (b'data: {"choices": [{"finish_reason": "abort"}]}', (C,), Kind.ABORTED),
    (b'data: {"choices": [{"finish_reason": "abort"}]}', (R, M, O), Kind.CONTENT),
    (b'data: {"choices": [{}, {"finish_reason": "abort"}]}', (C,), Kind.ABORTED),
    (b'data: {"choices": [{"text": "\\"abort\\""}]}', (C,), Kind.CONTENT),
    (b'data: {"error": {"message": "x"}}', (C, R, M), Kind.ERROR),
    (b'data: {"error": "x"}', (C, R, M), Kind.ERROR),
    (b'data: {"error": {"message": "x"}}', (O,), Kind.CONTENT),
    (b'data: {"error": null, "choices": []}', (C,), Kind.CONTENT),
    (b'event: error\ndata: {"type": "error", "message": "x"}', (R, M), Kind.ERROR),
    (b'data: {"type": "response.failed", "response": {"status": "failed"}}', (R,), Kind.ERROR),
    (b'data: {"type": "response.completed", "response": {"status": "completed", "error": null}}', (R,), Kind.END),
    (b'data: {"type": "response.incomplete", "response": {"status": "incomplete"}}', (R,), Kind.END),
    (b'data: {"type": "response.completed", "response": {"status": "cancelled"}}', (R,), Kind.ABORTED),
    (b'data: {"type": "response.output_text.delta", "delta": "cancelled"}', (R,), Kind.CONTENT),
    (b'data: {"type": "message_delta", "delta": {"stop_reason": null}}', (M,), Kind.ABORTED),
    (b'data: {"type": "message_delta", "delta": {"stop_reason": "end_turn"}}', (M,), Kind.CONTENT),
    (b'data: {"type": "message_stop"}', (M,), Kind.END),
    (b'data: {"type": "ping"}', (M,), Kind.CONTENT),
    (b'data: {"choices":\ndata: [{"finish_reason": "abort"}]}', (C,), Kind.ABORTED),
]


@pytest.mark.parametrize(("event", "dialects", "kind"), KINDS)
@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n"])
def test_what_an_event_means(event: bytes, dialects: tuple[Dialect, ...], kind: Kind, end: bytes) -> None:
    for dialect in dialects:
        assert sse.kind_of(event + end, dialect) is kind


@pytest.mark.parametrize(("event", "dialects", "kind"), KINDS)
def test_an_event_without_a_suspicious_token_is_content(
    event: bytes, dialects: tuple[Dialect, ...], kind: Kind
) -> None:
    """So that most pieces of a stream need not be read."""
    for dialect in dialects:
        if not any(token in event for token in sse.SUSPECT[dialect]):
            assert kind in (Kind.CONTENT, Kind.COMMENT, Kind.END)


# errors


@given(st.sampled_from(Dialect), TEXTS, st.binary(max_size=40), st.binary(max_size=40))
def test_an_error_event_is_one_whole_event_that_its_reader_takes_for_an_error(
    dialect: Dialect, message: str, first: bytes, last: bytes
) -> None:
    event = sse.error_event(dialect, message, first, last)
    assert sse.split(event) == (event, b"")
    assert list(sse.events(event)) == [event]
    reader = Dialect.COMPLETIONS if dialect is Dialect.OTHER else dialect
    assert sse.kind_of(event, reader) is Kind.ERROR
    assert json.dumps(message) in json.dumps(msgspec.json.decode(sse.data_of(event)))


@pytest.mark.parametrize(
    "first", [b"", b"data: 5\n\n", b'data: {"response": "no"}\n\n', b'data: {"response": {"id": "resp_1"}}\n\n']
)
def test_a_failed_response_goes_on_counting(first: bytes) -> None:
    last = b'data: {"sequence_number":11}\n\ndata: {"sequence_number": 12, "delta": "x"}\n\n'
    failed = json.loads(sse.data_of(sse.error_event(Dialect.RESPONSES, "gone", first, last)))
    assert failed["sequence_number"] == 13
    assert failed["response"]["status"] == "failed"
    assert failed["response"]["error"] == {"code": "server_error", "message": "gone"}
    assert failed["response"].get("id") == ("resp_1" if b"resp_1" in first else None)


@pytest.mark.parametrize("number", ["0", "7", "9" * 5000, "0" * 5000 + "7"])
def test_a_sequence_number_of_any_length_is_followed(number: str) -> None:
    last = b'data: {"type": "x", "sequence_number": %b}\n\n' % number.encode()
    written = json.loads(sse.data_of(sse.error_event(Dialect.RESPONSES, "x", b"", last)))
    assert written["sequence_number"] == min(int(number.lstrip("0")[:12] or "0"), 1 << 31) + 1
