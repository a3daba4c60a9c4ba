"""Clients that are ready to wait for a first replica."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import programs
import pytest
import scripted
import wire
from scripted import END, STREAM, Engine, event, said

BODY = b'{"prompt": "x"}'
STREAMED = b'{"prompt": "x", "stream": true}'


@pytest.fixture
def late() -> Iterator[Engine]:
    """An engine that does not listen yet."""
    engine = Engine(scripted.FINE)
    yield engine
    engine.down()


@pytest.fixture
def url(late: Engine, tmp_path: Path) -> Iterator[str]:
    with scripted.gateway(tmp_path, [late], "--probe-seconds", "0.2") as program:
        yield program.url


def asking(url: str, body: bytes, wait: str, key: str = "none") -> wire.Line:
    """A request that is on its way."""
    line = wire.Line(url)
    headers = {"x-dp-vllm-wait": wait, "authorization": f"Bearer {key}"}
    line.send(wire.request("POST", "/v1/completions", body, headers))
    return line


def test_a_request_is_held_until_a_replica_is_there(url: str, late: Engine) -> None:
    line = asking(url, BODY, "60")
    late.up()
    answer = line.answer()
    line.close()
    assert (answer.status, answer.replica) == (200, "0")
    assert "x-dp-vllm-wait" not in late.asked[0].headers


def test_a_stream_hears_comments_meanwhile(url: str, late: Engine) -> None:
    late.script = scripted.saying(STREAM, event(said("one")), event(b"[DONE]"), END)
    line = asking(url, STREAMED, "60")
    head = line.read_until(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ") and b"text/event-stream" in head
    assert b": no replica is available" in line.read_until(b"\n\n")
    threading.Timer(0.0, late.up).start()
    rest = line.read_until(b"0\r\n\r\n")
    line.close()
    assert b'"one"' in rest and b"data: [DONE]" in rest and b"HTTP/1.1" not in rest


@pytest.mark.parametrize("body", [BODY, STREAMED])
def test_when_the_time_is_over_it_is_told(url: str, body: bytes) -> None:
    line = asking(url, body, "0.2")
    answer = line.answer()
    line.close()
    if body is BODY:
        assert (answer.status, answer.error["code"]) == (503, "no_ready_replica")
    else:
        assert b": no replica is available" in answer.body
        assert b'"error"' in answer.body and not answer.cut


def test_without_the_header_nobody_waits_and_is_told_what_is_wrong_with_each(url: str) -> None:
    answer = wire.complete(url)
    assert answer.status == 503
    told = "no replica is available (0 of 1); replica 0: does not answer /health with 200"
    assert answer.error["message"] == told


def test_what_is_no_time_is_400(url: str) -> None:
    for wait in ("soon", "-1", "1e9", "nan", ""):
        line = asking(url, BODY, wait)
        answer = line.answer()
        line.close()
        assert answer.status == 400, wait
        assert "x-dp-vllm-wait" in answer.error["message"]


@pytest.mark.parametrize("body", [BODY, STREAMED])
def test_when_the_gateway_ends_nobody_waits_on(late: Engine, tmp_path: Path, body: bytes) -> None:
    with scripted.gateway(tmp_path, [late]) as gateway:
        line = asking(gateway.url, body, "60")
        if body is STREAMED:
            line.read_until(b": no replica")
        else:  # it has arrived once one that was sent later is answered
            assert wire.complete(gateway.url).status == 503
        gateway.signal(signal.SIGTERM)
        assert b"the server is shutting down" in line.rest()
        line.close()
        assert gateway.wait() == 0


def test_a_client_that_leaves_while_it_waits_reaches_no_engine(url: str, late: Engine) -> None:
    asking(url, BODY, "60").close()
    late.up()
    programs.wait_until(lambda: programs.answers(url + "/health"), "the replica is there")
    assert wire.complete(url).status == 200
    assert len(late.asked) == 1


def test_only_so_many_wait_of_one_key_and_of_all_and_none_without_a_key(late: Engine, tmp_path: Path) -> None:
    keys = [flag for key in "abc" for flag in ("--api-key", key)]
    with (
        scripted.gateway(tmp_path, [late], "--max-queued-requests", "2", *keys) as program,
        contextlib.ExitStack() as stack,
    ):
        url = program.url
        for key in "ab":
            waiting = stack.enter_context(contextlib.closing(asking(url, STREAMED, "60", key)))
            assert b": no replica" in waiting.read_until(b"\n\n")
            with contextlib.closing(asking(url, BODY, "60", key)) as another:
                assert another.answer().error["code"] == "queue_full"
        with contextlib.closing(asking(url, BODY, "60", "c")) as third:
            refused = third.answer()
        assert (refused.status, refused.error["code"]) == (429, "queue_full")
        assert int(refused.headers["retry-after"]) > 0
        assert wire.ask(url, "GET", "/version", headers={"x-dp-vllm-wait": "60"}).status == 503
