"""What becomes of a request whose engine fails: decided by what has reached the client."""

import itertools
import json
import threading
from collections.abc import Callable, Iterable
from concurrent import futures
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import scripted
import wire
from scripted import (
    END,
    FINE,
    STREAM,
    Asked,
    Engine,
    Engines,
    Peer,
    Script,
    chunk,
    event,
    said,
    saying,
    then_closing,
    whole,
)
from wire import Answer

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
MESSAGES = "/v1/messages"
RESPONSES = "/v1/responses"

DRAINING = whole(500, {"error": {"message": "cannot schedule new futures after shutdown", "code": 500}})
DEAD = whole(500, {"error": {"message": "EngineCore encountered an issue. See stack trace", "code": 500}})
BUSY = whole(503, {"error": {"message": "The engine is currently busy", "code": 503}})

ALMOST_WHOLE = whole(200, {"object": "text_completion"})[:-4]

_numbers = itertools.count()


def reset(*pieces: bytes) -> Script:
    """A script that sends some bytes and dies."""

    def script(peer: Peer, asked: Asked) -> None:
        peer.send(*pieces)
        peer.reset()

    return script


@dataclass(slots=True)
class Play:
    """The next request, at whichever engine, gets the next act."""

    acts: list[Script]
    played: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, peer: Peer, asked: Asked) -> None:
        with self.lock:
            act = self.acts[self.played]
            self.played += 1
        act(peer, asked)


def play(engines: Iterable[Engine], *acts: Script) -> Play:
    """Let the engines do these things, one for each request that they are sent."""
    played = Play(list(acts))
    for engine in engines:
        engine.script = played
    return played


def send(url: str, path: str = COMPLETIONS, **fields: Any) -> Answer:
    """A request whose body is like no other: what one test's engines died of is not held against another's."""
    return wire.ask(url, "POST", path, {"model": "demo/model", "prompt": f"number {next(_numbers)}", **fields})


# the answer that was not begun is asked for elsewhere


@pytest.mark.parametrize(
    "failure",
    [
        pytest.param(saying(DRAINING), id="draining"),
        pytest.param(saying(DEAD), id="the engine behind the server is dead"),
        pytest.param(saying(BUSY), id="busy"),
        pytest.param(then_closing(), id="closed without a word"),
        pytest.param(reset(), id="reset without a word"),
        pytest.param(then_closing(b"HTTP/1.1 200 OK\r\ncontent-ty"), id="closed within the head"),
        pytest.param(reset(ALMOST_WHOLE), id="reset within the body"),
        pytest.param(then_closing(ALMOST_WHOLE), id="closed within the body"),
        pytest.param(
            then_closing(scripted.head(content_type="application/json"), b'{"choices": ['),
            id="closed within a body of no announced length",
        ),
        pytest.param(then_closing(whole(200, {"choices": [{"index": 0, "finish_reason": "abort"}]})), id="aborted"),
        pytest.param(
            then_closing(whole(200, {"choices": [{"finish_reason": "stop"}, {"finish_reason": "abort"}]})),
            id="one of several choices aborted",
        ),
        pytest.param(then_closing(STREAM), id="a stream's head alone"),
        pytest.param(then_closing(STREAM, chunk(b": keep-alive\n\n")), id="a stream's head and a comment"),
        pytest.param(then_closing(STREAM, chunk(b'data: {"choices": [{"te')), id="half of a stream's first event"),
        pytest.param(
            then_closing(STREAM, event(said("", "abort")), event(b"[DONE]"), END), id="a stream aborted at once"
        ),
        pytest.param(then_closing(STREAM, event(said("", "abort"))), id="a stream aborted and cut"),
        pytest.param(
            saying(STREAM, event({"error": {"message": "EngineCore encountered an issue", "code": 500}}), END),
            id="a stream whose first event tells of the engine's death",
        ),
    ],
)
def test_what_has_not_reached_the_client_is_asked_of_another_replica(
    url: str, engines: Engines, failure: Script
) -> None:
    played = play(engines, failure, FINE)
    answer = send(url)
    assert answer.status == 200
    assert answer.json()["choices"][0]["text"] == "fine"
    assert played.played == 2
    assert sorted(len(engine.asked) for engine in engines) == [1, 1], "not the same one again"


@pytest.mark.parametrize(
    ("path", "aborted"),
    [
        (CHAT, {"choices": [{"message": {"content": "par"}, "finish_reason": "abort"}]}),
        (RESPONSES, {"id": "resp_1", "object": "response", "status": "cancelled", "output": []}),
        (MESSAGES, {"id": "msg_1", "type": "message", "content": [], "stop_reason": None}),
    ],
)
def test_each_dialect_has_its_word_for_aborted(url: str, engines: Engines, path: str, aborted: Any) -> None:
    played = play(engines, then_closing(whole(200, aborted)), FINE)
    assert send(url, path).json()["choices"][0]["text"] == "fine"
    assert played.played == 2


@pytest.mark.parametrize(
    ("path", "events"),
    [
        (RESPONSES, [{"type": "response.completed", "response": {"id": "resp_1", "status": "cancelled"}}]),
        (MESSAGES, [{"type": "message_delta", "delta": {"stop_reason": None}}]),
    ],
)
def test_each_dialect_has_its_event_for_aborted(url: str, engines: Engines, path: str, events: list[Any]) -> None:
    played = play(engines, then_closing(STREAM, *map(event, events), END), FINE)
    assert send(url, path, stream=True).json()["choices"][0]["text"] == "fine"
    assert played.played == 2


# an abort that somebody asked for


ABORTED_CHUNKS = (event(said("one")), event(said("", "abort")), event(b"[DONE]"))


def test_an_abort_of_an_engine_that_lives_on_is_the_answer(url: str, engines: Engines) -> None:
    """It was asked for another way than through this gateway."""

    def script(peer: Peer, asked: Asked) -> None:
        if b'"stream": true' in asked.body:
            peer.send(STREAM, *ABORTED_CHUNKS[b'"late": false' in asked.body :], END)
        else:
            peer.send(whole(200, said("par", "abort")))

    for engine in engines:
        engine.script = script
    with futures.ThreadPoolExecutor(3) as pool:
        late, early = (pool.submit(send, url, stream=True, late=late) for late in (True, False))
        answer = send(url)
        assert (answer.status, answer.json()) == (200, said("par", "abort"))
        for streamed, chunks in ((late, ABORTED_CHUNKS), (early, ABORTED_CHUNKS[1:])):
            answer = streamed.result()
            assert (answer.status, answer.cut) == (200, False)
            assert b"".join(map(chunk, (one + b"\n\n" for one in answer.body.split(b"\n\n")[:-1]))) == b"".join(chunks)
    assert sum(len(engine.asked) for engine in engines) == 3


def test_an_abort_that_was_asked_for_through_the_gateway_is_the_answer_at_once(tmp_path: Path) -> None:
    """Even if the engine closes each connection."""
    waiting, aborted = threading.Semaphore(0), threading.Event()

    def script(peer: Peer, asked: Asked) -> None:
        if asked.target == "/abort_requests":
            aborted.set()
            peer.send(whole(200, {"status": "aborted"}))
            return
        streams = b'"stream": true' in asked.body
        peer.send(*([STREAM, ABORTED_CHUNKS[0]] if streams else []))
        waiting.release()
        assert aborted.wait(wire.SECONDS)
        peer.send(*([*ABORTED_CHUNKS[1:], END] if streams else [whole(200, said("par", "abort"))]))
        peer.close()

    with scripted.engine(script) as one, scripted.engine(script) as two:
        with scripted.gateway(tmp_path, (one, two)) as gateway, futures.ThreadPoolExecutor(2) as pool:
            whole_answer, streamed = pool.submit(send, gateway.url), pool.submit(stream, gateway.url)
            for _ in range(2):
                assert waiting.acquire(timeout=wire.SECONDS)
            assert wire.ask(gateway.url, "POST", "/abort_requests", {}).status == 200
            answer = whole_answer.result()
            assert (answer.status, answer.json()) == (200, said("par", "abort"))
            _, events = streamed.result()
            assert len(events) == 3 and events[-1] == "data: [DONE]"
        asked = [asked.target for engine in (one, two) for asked in engine.asked]
        assert sorted(asked) == ["/abort_requests"] * 2 + [COMPLETIONS] * 2, "each once"


# what the client is told when nobody answers


@pytest.mark.parametrize(
    ("failure", "status", "code"),
    [
        (saying(BUSY), 429, "upstream_busy"),
        (saying(DRAINING), 503, "upstream_draining"),
        (then_closing(whole(200, {"choices": [{"finish_reason": "abort"}]})), 502, "upstream_aborted"),
    ],
)
def test_when_every_replica_fails_the_client_is_told_how(
    url: str, engines: Engines, failure: Script, status: int, code: str
) -> None:
    played = play(engines, failure, failure)
    answer = send(url)
    assert (answer.status, answer.error["code"]) == (status, code)
    assert ("retry-after" in answer.headers) == (status in (429, 503))
    if status in (429, 503):
        assert 1 <= int(answer.headers["retry-after"]) <= 120
    assert played.played == 2


@pytest.mark.parametrize("failure", [then_closing(), saying(DEAD)])
def test_a_request_that_was_in_flight_at_two_deaths_is_not_sent_again(
    url: str, engines: Engines, failure: Script
) -> None:
    played = play(engines, failure, failure)
    body = {"model": "demo/model", "prompt": f"poison {next(_numbers)}"}
    for expected in (2, 2, 2):
        answer = wire.ask(url, "POST", COMPLETIONS, body)
        assert (answer.status, answer.error["code"]) == (500, "request_ends_replicas")
        assert answer.headers["x-should-retry"] == "false"
        assert played.played == expected, "the first time it is sent twice, then never again"
    play(engines, FINE)
    assert send(url).status == 200, "another request is not refused"


def test_a_request_that_was_answered_is_not_blamed_for_an_earlier_death(url: str, engines: Engines) -> None:
    body = {"model": "demo/model", "prompt": f"innocent {next(_numbers)}"}
    for _ in range(3):
        play(engines, then_closing(), FINE)
        assert wire.ask(url, "POST", COMPLETIONS, body).status == 200


def test_what_an_engine_had_whole_is_sent_again_only_once(tmp_path: Path) -> None:
    abort = then_closing(whole(200, {"choices": [{"finish_reason": "abort"}]}))
    with (
        scripted.engine() as one,
        scripted.engine() as two,
        scripted.engine() as three,
        scripted.gateway(tmp_path, (one, two, three)) as gateway,
    ):
        played = play((one, two, three), abort, abort, FINE)
        assert send(gateway.url).error["code"] == "upstream_aborted"
        assert played.played == 2
        played = play((one, two, three), saying(BUSY), saying(DRAINING), FINE)
        assert send(gateway.url).status == 200, "busy and draining engines did nothing with it"
        assert played.played == 3


def test_a_route_that_leaves_something_behind_is_never_replayed(url: str, engines: Engines) -> None:
    for path in ("/v1/unheard_of", "/v1/responses/resp_1/cancel"):
        played = play(engines, then_closing(), FINE)
        answer = send(url, path)
        assert (answer.status, answer.error["code"]) == (502, "upstream_reset")
        assert played.played == 1
        played = play(engines, saying(BUSY), FINE)
        assert send(url, path).status == 200, "a busy engine did nothing with it"
        assert played.played == 2


def test_what_is_not_http_is_not_asked_again(url: str, engines: Engines) -> None:
    played = play(engines, then_closing(b"SSH-2.0-OpenSSH_9.2\r\n"), FINE)
    answer = send(url)
    assert (answer.status, answer.error["code"]) == (502, "upstream_garbage")
    assert played.played == 1


@pytest.mark.parametrize("status", [400, 401, 404, 413, 422, 429, 500, 501])
def test_other_errors_are_the_clients_to_read(url: str, engines: Engines, status: int) -> None:
    told = {"error": {"message": "The model `nope` does not exist", "code": status}}
    played = play(engines, *[saying(whole(status, told, x_mine="kept"))] * 4)
    for _ in range(4):
        answer = send(url)
        assert (answer.status, answer.json(), answer.headers["x-mine"]) == (status, told, "kept")
    assert {len(engine.asked) for engine in engines} == {2}, "it does not hurt their health"
    assert played.played == 4


def test_an_endpoint_that_nobody_listens_on_is_passed_over(tmp_path: Path) -> None:
    with scripted.engine() as alive, scripted.engine() as gone, scripted.gateway(tmp_path, (gone, alive)) as gateway:
        gone.down()
        for _ in range(6):
            answer = send(gateway.url, "/v1/unheard_of")
            assert (answer.status, answer.replica) == (200, "1")
        alive.down()
        answer = send(gateway.url)
        assert answer.status == 503
        assert answer.error["code"] in ("upstream_connect_error", "no_ready_replica")
        assert "retry-after" in answer.headers


def test_anthropics_clients_are_told_in_their_words(url: str, engines: Engines) -> None:
    play(engines, saying(BUSY), saying(BUSY))
    answer = send(url, MESSAGES)
    assert answer.status == 429
    assert answer.json()["type"] == "error"
    assert answer.json()["error"]["type"] == "rate_limit_error"


# what has begun is ended so that the client knows


def stream(url: str, path: str = COMPLETIONS) -> tuple[Answer, list[str]]:
    """A streamed answer and its events."""
    answer = send(url, path, stream=True)
    return answer, [text for text in answer.body.decode().split("\n\n") if text]


def data(text: str) -> Any:
    """What an event says."""
    return json.loads(text.partition("data: ")[2])


CUTS: list[Any] = [
    pytest.param(then_closing, id="closed"),
    pytest.param(reset, id="reset"),
]


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("half", [b"", chunk(b'data: {"choices": [{"text": "ha')])
def test_a_stream_that_is_cut_ends_with_an_error_event(
    url: str, engines: Engines, cut: Callable[..., Script], half: bytes
) -> None:
    played = play(engines, cut(STREAM, event(said("one")), event(said("two")), half))
    answer, events = stream(url)
    assert not answer.cut
    assert [data(text)["choices"][0]["text"] for text in events[:2]] == ["one", "two"]
    assert data(events[2])["error"]["code"] == 502
    assert len(events) == 3, "no [DONE], and no half of an event"
    assert played.played == 1


def test_an_abort_of_an_engine_that_ends_is_replaced_by_an_error(url: str, engines: Engines) -> None:
    play(engines, then_closing(STREAM, event(said("one")), event(said("", "abort")), event(b"[DONE]"), END))
    _, events = stream(url)
    assert len(events) == 2
    assert data(events[1])["error"]["message"] == "the replica stopped while it answered"


def test_after_the_engines_own_error_event_nothing_follows(url: str, engines: Engines) -> None:
    error = {"error": {"message": "EngineCore encountered an issue", "code": 500}}
    play(engines, saying(STREAM, event(said("one")), event(error), event(b"[DONE]"), END))
    answer, events = stream(url)
    assert not answer.cut
    assert [data(text) for text in events] == [said("one"), error]


def test_messages_end_with_an_event_named_error(url: str, engines: Engines) -> None:
    start = {"type": "message_start", "message": {"id": "msg_1", "content": []}}
    play(engines, then_closing(STREAM, chunk(b"event: message_start\n"), event(start)))
    _, events = stream(url, MESSAGES)
    assert events[1].startswith("event: error\n")
    assert data(events[1])["error"]["type"] == "api_error"


def test_responses_end_with_response_failed(url: str, engines: Engines) -> None:
    created = {"type": "response.created", "sequence_number": 0, "response": {"id": "resp_7", "status": "in_progress"}}
    delta = {"type": "response.output_text.delta", "sequence_number": 4, "delta": "one"}
    play(engines, then_closing(STREAM, event(created), event(delta)))
    _, events = stream(url, RESPONSES)
    assert events[2].startswith("event: response.failed\n")
    failed = data(events[2])
    assert failed["sequence_number"] == 5
    assert failed["response"]["id"] == "resp_7"
    assert failed["response"]["status"] == "failed"


@pytest.mark.parametrize("cut", CUTS)
def test_a_body_that_is_no_stream_of_events_is_cut(url: str, engines: Engines, cut: Callable[..., Script]) -> None:
    played = play(engines, cut(scripted.head(content_type="audio/wav", transfer_encoding="chunked"), chunk(b"RIFF")))
    answer = send(url)
    assert (answer.status, answer.cut) == (200, True)
    assert answer.body in (b"RIFF", b"")
    assert played.played == 1


def test_a_large_json_answer_is_relayed_as_it_comes_and_then_not_asked_again(url: str, engines: Engines) -> None:
    large = b'{"data": "' + b"x" * (2 << 20) + b'"}'
    play(engines, saying(whole(200, large)))
    assert send(url).body == large
    played = play(engines, then_closing(whole(200, large)[:-9]), FINE)
    assert send(url).cut
    assert played.played == 1


# time


def test_engines_that_say_nothing_are_given_up(tmp_path: Path) -> None:
    def hang(*pieces: bytes) -> Script:
        def script(peer: Peer, asked: Asked) -> None:
            peer.send(*pieces)
            assert peer.left(), "the gateway ends the engine's request"

        return script

    flags = ("--first-byte-seconds", "0.3", "--chunk-seconds", "0.3")
    with (
        scripted.engine() as one,
        scripted.engine() as two,
        scripted.gateway(tmp_path, (one, two), *flags) as gateway,
    ):
        for before, streams in itertools.product((b"", STREAM + chunk(b": still there\n\n")), (False, True)):
            played = play((one, two), hang(before), FINE)
            answer = send(gateway.url, stream=streams)
            assert (answer.status, answer.error["code"]) == (504, "upstream_timeout")
            assert answer.headers["x-should-retry"] == "false"
            assert played.played == 1, "what takes too long here takes too long there"
        play((one, two), hang(STREAM, event(said("one"))))
        _, events = stream(gateway.url)
        assert data(events[1])["error"]["message"] == "the replica sent nothing for 0.3 s"
