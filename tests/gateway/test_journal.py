"""The line that each request leaves in the log."""

import asyncio
import fcntl
import json
import logging
import os
import re
import select
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import programs
import pytest
import scripted
import wire
from scripted import STREAM, Engine, event, said
from watched import Gateway, gateway

from dp_vllm import log_format
from dp_vllm_gateway import request_line
from dp_vllm_gateway.call import Call
from dp_vllm_gateway.journal import Journal

LINE = re.compile(
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (?P<status>\d+) (?P<method>\w+) (?P<path>\S+)"
    r" key=(?P<key>\S+) model=(?P<model>\S+) replica=(?P<replica>\S+) attempts=(?P<attempts>\d+)"
    r" reason=(?P<reason>\S+) id=(?P<id>\S+) prompt=(?P<prompt>\S+) completion=(?P<completion>\S+)"
    r" first=(?P<first>\S+) total=(?P<total>\S+)"
)


def fields(line: str) -> dict[str, str]:
    found = LINE.fullmatch(line)
    assert found, line
    return found.groupdict()


def call(**given: object) -> Call:
    ended = Call("id-1", "POST", "/v1/completions", 10.0)
    ended.status, ended.ended_at = 200, 11.5
    for name, value in given.items():
        setattr(ended, name, value)
    return ended


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Engine, Gateway]]:
    """An engine, and a gateway with one key: `KEY`."""
    directory = tmp_path_factory.mktemp("gateway")
    keys = directory / "keys"
    keys.write_text("alice: secret-of-alice\n")
    with (
        scripted.engine() as engine,
        gateway(directory, engine, flags=("--api-key-file", str(keys))) as running,
    ):
        yield engine, running


KEY = {"authorization": "Bearer secret-of-alice"}


def line_of(running: Gateway, request: str) -> dict[str, str]:
    """The fields of one request's line."""
    (line,) = running.lines(1, f"id={request} ")
    return fields(line)


def test_a_request_leaves_a_line_that_says_what_became_of_it(both: tuple[Engine, Gateway]) -> None:
    engine, running = both
    answer = {**said("fine", "stop"), "usage": {"prompt_tokens": 7, "completion_tokens": 3}}
    engine.script = scripted.saying(scripted.whole(200, answer))
    assert wire.complete(running.url, KEY | {"x-request-id": "mine"}, prompt="a very private prompt").status == 200
    line = line_of(running, "mine")
    expected = {"status": "200", "method": "POST", "path": "/v1/completions", "key": "alice", "model": "demo/model"}
    expected |= {"replica": "0", "attempts": "1", "reason": "-", "prompt": "7", "completion": "3"}
    assert line.items() >= expected.items()
    assert 0 <= float(line["first"]) <= float(line["total"])
    for secret in ("secret-of-alice", "private"):
        assert secret not in running.program.output()


def test_a_refused_request_leaves_a_line_with_the_reason(both: tuple[Engine, Gateway]) -> None:
    _, running = both
    headers = {"authorization": "Bearer guessed", "x-request-id": "refused"}
    assert wire.complete(running.url, headers).status == 401
    line = line_of(running, "refused")
    assert line.items() >= {"status": "401", "key": "-", "replica": "-", "reason": "invalid_api_key"}.items()
    assert "guessed" not in running.program.output()


def test_a_reason_does_not_quote_what_the_client_sent(both: tuple[Engine, Gateway]) -> None:
    _, running = both
    answer = wire.complete(running.url, KEY | {"x-request-id": "odd", "expect": "a-private-thing"})
    assert answer.status == 417
    assert line_of(running, "odd")["reason"] == "expectation_failed"
    assert "private" not in running.program.output()


def test_a_broken_stream_says_so(both: tuple[Engine, Gateway]) -> None:
    engine, running = both
    engine.script = scripted.then_closing(STREAM, event(said("a")))
    wire.complete(running.url, KEY | {"x-request-id": "torn"}, stream=True)
    line = line_of(running, "torn")
    assert (line["status"], line["reason"]) == ("200", "broken")


def test_a_client_that_left_is_499(both: tuple[Engine, Gateway]) -> None:
    engine, running = both
    engine.script = scripted.saying(STREAM, event(said("a")))
    body = json.dumps({"model": "demo/model", "prompt": "hello", "stream": True}).encode()
    with wire.line(running.url) as client:
        client.send(wire.request("POST", "/v1/completions", body, KEY | {"x-request-id": "left"}))
        client.read_until(b'"a"')
    line = line_of(running, "left")
    assert (line["status"], line["reason"]) == ("499", "client_left")
    running.wait_until_idle()


def test_the_log_can_be_json(tmp_path: Path) -> None:
    with scripted.engine() as engine, gateway(tmp_path, engine, flags=("--log-format", "json")) as running:
        wire.complete(running.url)
        (line,) = running.lines(1)
        for each in running.program.output().splitlines():
            json.loads(each)
    said = json.loads(line)
    assert (said["status"], said["path"], said["replica"], said["key"]) == (200, "/v1/completions", "0", "")
    assert said["prompt_tokens"] is None
    assert 0 <= said["first_token_seconds"] <= said["total_seconds"]


def test_looks_of_machines_leave_a_line_only_if_they_fail(tmp_path: Path) -> None:
    with scripted.engine() as engine, gateway(tmp_path, engine, flags=("--probe-seconds", "0.2")) as running:
        for path in ("/health", "/ready", "/metrics"):
            assert wire.ask(running.url, "GET", path).status == 200
        engine.down()
        programs.wait_until(lambda: programs.answers(running.url + "/health", 503), "it is noticed")
        failed = running.lines(1, mark="/health")
        assert {fields(line)["status"] for line in failed} == {"503"}
        assert " 200 " not in running.program.output()


def test_no_access_log_means_no_line(tmp_path: Path) -> None:
    with scripted.engine() as engine:
        with programs.gateway(tmp_path, "--replica", engine.url, "--no-access-log") as program:
            assert wire.complete(program.url).status == 200
            program.signal(signal.SIGTERM)
            assert program.wait() == 0
        assert "/v1/completions" not in program.output()


def test_the_last_lines_are_written_before_the_end(tmp_path: Path) -> None:
    with scripted.engine() as engine:
        with programs.gateway(tmp_path, "--replica", engine.url) as program:
            assert wire.complete(program.url).status == 200
            program.signal(signal.SIGTERM)
            assert program.wait() == 0
        assert "/v1/completions" in program.output()


HOSTILE = {
    "another line": "a\n2026-01-01T00:00:00.000Z 200 GET /forged",
    "another field": "a status=200 key=root",
    "quotes": 'a" key="root',
    "a terminal's colours": "\x1b[31mred\x9b31m",
    "text from right to left": "a\u202eb",
    "no UTF-8": "a\udcff",
    "a line separator": "a\u2028b",
    "a backslash": "a\\",
}


@pytest.mark.parametrize("value", HOSTILE.values(), ids=HOSTILE)
def test_nothing_that_clients_choose_forges_a_text_line(value: str) -> None:
    line = request_line.text(call(path="/" + value, model=value, reason=value), 0).decode()
    assert line.endswith("\n") and line[:-1].isprintable()
    word = r'(?:[^" ]+|"(?:[^"\\]|\\.)*")'
    found = re.fullmatch(
        rf"\S+ 200 POST ({word}) key=- model=({word}) replica=- attempts=0 reason=({word}) id=.*\n", line
    )
    assert found, line
    path, model, reason = (json.loads(each) for each in found.groups())
    assert (path, model, reason) == ("/" + value, value, value)


@pytest.mark.parametrize("value", HOSTILE.values(), ids=HOSTILE)
def test_nothing_that_clients_choose_forges_a_json_line(value: str) -> None:
    line = request_line.as_json(call(path="/" + value, model=value, reason=value), 0).decode()
    assert line.endswith("\n") and line[:-1].isprintable()
    said = json.loads(line)
    assert said["status"] == 200 and said["key"] == ""
    assert said["model"] == said["reason"] == said["path"][1:]


@pytest.mark.parametrize("written", [request_line.text, request_line.as_json])
def test_a_query_is_not_told_and_long_values_are_cut(written: Callable[[Call, int], bytes]) -> None:
    assert b"secret" not in written(call(path="/v1/models?key=secret"), 0)
    long = "\U0001f600" * 100_000
    assert len(written(call(path=long, model=long, reason=long, id="i" * 128), 0)) <= select.PIPE_BUF


def test_the_time_is_utc_with_milliseconds() -> None:
    assert log_format.time_of(1_700_000_000_123) == "2023-11-14T22:13:20.123Z"


def record_of_an_error() -> logging.LogRecord:
    try:
        raise ValueError("\udcff no UTF-8")
    except ValueError:
        record = logging.LogRecord("gateway", logging.ERROR, __file__, 1, "it %s", ("broke",), sys.exc_info())
    record.created = 1_700_000_000.5
    return record


def test_other_lines_have_the_same_time_and_their_trace() -> None:
    first, *trace = log_format.Text().format(record_of_an_error()).splitlines()
    assert first == "2023-11-14T22:13:20.500Z ERROR it broke"
    assert trace[0].startswith("Traceback")


def test_other_lines_are_json_too_if_that_is_asked_for() -> None:
    line = log_format.Json().format(record_of_an_error())
    said = json.loads(line)
    assert "\n" not in line
    assert (said["time"], said["level"], said["message"]) == ("2023-11-14T22:13:20.500Z", "ERROR", "it broke")
    assert "ValueError" in said["trace"]


async def test_a_reader_that_stalls_costs_lines_and_no_time(caplog: pytest.LogCaptureFixture) -> None:
    reader, writer = os.pipe()
    kept, lost = 2000, 50
    journal = Journal(request_line.text, writer, most=kept)
    for _ in range(kept + lost):
        journal.record(call())
    received = b""
    while not caplog.records:  # the event loop goes on while the pipe is full
        received += await asyncio.to_thread(os.read, reader, 1 << 20)
        await asyncio.sleep(0)
    journal.close()
    os.close(writer)
    while piece := os.read(reader, 1 << 20):
        received += piece
    os.close(reader)
    assert received.count(b"\n") == kept
    assert len({line[24:] for line in received.splitlines()}) == 1
    assert caplog.messages == [f"{lost} requests have no line: nobody read the log in time"]


async def test_a_reader_that_is_gone_costs_nothing() -> None:
    reader, writer = os.pipe()
    journal = Journal(request_line.text, writer)
    os.close(reader)
    journal.record(call())
    journal.close()
    os.close(writer)


async def test_lines_go_out_whole_when_the_pipe_takes_only_a_part() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    capacity = fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    os.write(writer, b"x" * (capacity - 10))
    journal = Journal(request_line.text, writer)
    journal.record(call(id="first"))
    journal.record(call(id="second"))
    received = b""
    while b"id=second" not in received:
        received += await asyncio.to_thread(os.read, reader, 4096)
    journal.close()
    os.close(writer)
    os.close(reader)
    lines = received.lstrip(b"x").decode().splitlines()
    assert [fields(line)["id"] for line in lines[:1]] == ["first"]
