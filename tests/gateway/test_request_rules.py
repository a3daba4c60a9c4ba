"""What is judged of a request before it is sent on: its size, its path, its JSON, its model."""

import gzip
import json
import select
from pathlib import Path
from typing import Any

import pytest
import scripted
import wire
from scripted import Engine, Engines

JSON = {"content-type": "application/json"}
COMPLETIONS = "/v1/completions"


def asked(engines: Engines) -> list[scripted.Asked]:
    """What any engine was asked."""
    return [asked for engine in engines for asked in engine.asked]


# sizes


def test_a_body_that_is_too_large_is_refused_before_it_is_sent(engines: Engines, tmp_path: Path) -> None:
    with scripted.gateway(tmp_path, engines, "--max-body-bytes", "1000") as gateway:
        assert wire.ask(gateway.url, "POST", COMPLETIONS, json.dumps("x" * 998).encode(), JSON).status == 200
        with wire.line(gateway.url) as line:
            line.send(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 1001\r\n\r\n")
            answer = line.answer()
            assert (answer.status, answer.error["type"]) == (413, "invalid_request_error")
            assert "1001" in answer.error["message"] and "1000" in answer.error["message"]
        with wire.line(gateway.url) as line:
            line.send(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
            line.send(scripted.chunk(b" " * 600), scripted.chunk(b" " * 600))
            assert line.answer().status == 413
    assert len(asked(engines)) == 1


HEADS = {
    "plain": b"POST /any HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n",
    "chunked": b"POST /any HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n",
}


def until_answered(line: wire.Line, piece: bytes, most: int) -> int:
    """Send a piece every 10 ms until there is an answer; how many were sent."""
    for sent in range(most):
        if select.select([line.socket], [], [], 0.01)[0]:
            return sent
        line.send(piece)
    return most


@pytest.mark.parametrize("framing", HEADS)
def test_a_body_that_stops_or_trickles_is_408(engines: Engines, tmp_path: Path, framing: str) -> None:
    with scripted.gateway(tmp_path, engines, "--body-idle-seconds", "0.2") as gateway:
        for piece in (b"", b" " if framing == "plain" else scripted.chunk(b" ")):
            with wire.line(gateway.url) as line:
                line.send(HEADS[framing])
                assert until_answered(line, piece, most=2000) < 2000
                answer = line.answer()
                assert (answer.status, answer.error["type"]) == (408, "timeout_error")
    assert not asked(engines)


def test_what_the_gateway_cannot_hold_is_told_to_come_again(engines: Engines, tmp_path: Path) -> None:
    with scripted.gateway(tmp_path, engines, "--max-buffered-bytes", "1000") as gateway:
        with wire.line(gateway.url) as first:
            first.send(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 900\r\n\r\n", b" " * 700)
            answer = None
            while answer is None or answer.status == 200:  # until the 700 bytes are there
                answer = wire.ask(gateway.url, "POST", COMPLETIONS, b'"' + b"x" * 398 + b'"', JSON)
            assert (answer.status, answer.error["code"]) == (503, "gateway_memory")
            assert answer.headers["retry-after"] == "5"
            first.send(b" " * 198, b"{}")
            assert first.answer().status == 200
        assert wire.ask(gateway.url, "POST", COMPLETIONS, b'"' + b"x" * 398 + b'"', JSON).status == 200


# Expect: 100-continue


def test_a_client_that_waits_is_told_to_go_on(url: str, engines: Engines) -> None:
    body = b'{"prompt": "hello"}'
    with wire.line(url) as line:
        line.send(
            wire.request("POST", COMPLETIONS, headers={"expect": "100-continue", "content-length": str(len(body))})
        )
        assert line.read_until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        line.send(body)
        assert line.answer().status == 200
    assert asked(engines)[0].body == body
    assert "expect" not in asked(engines)[0].headers


def test_a_client_that_waits_with_too_much_is_refused_at_once(engines: Engines, tmp_path: Path) -> None:
    headers = {"expect": "100-continue", "content-length": "11"}
    flags = ("--max-body-bytes", "10", "--api-key", "right")
    with scripted.gateway(tmp_path, engines, *flags) as gateway:
        for given, status in (({}, 401), ({"authorization": "Bearer right"}, 413)):
            with wire.line(gateway.url) as line:
                line.send(wire.request("POST", COMPLETIONS, headers={**headers, **given}))
                assert line.answer().status == status


def test_another_expectation_is_417(url: str) -> None:
    assert wire.ask(url, "POST", COMPLETIONS, {}, {"expect": "the moon"}).status == 417


# paths


@pytest.mark.parametrize(
    "path",
    [
        "/v1/../metrics",
        "/v1/..",
        "/./v1/models",
        "//v1/models",
        "/v1//models",
        "/v1/%2e%2e/metrics",
        "/v1/%2E%2e/metrics",
        "/v1%2fmodels",
        "/v1%2Fmodels",
        "/v1%5cmodels",
        "/collective_rpc#x",
        "/v1\\models",
        "http://elsewhere/v1/models",
        "*",
    ],
)
def test_a_path_that_an_engine_could_read_differently_is_400(url: str, engines: Engines, path: str) -> None:
    answer = wire.ask(url, "POST", path, {})
    assert answer.status == 400
    assert not asked(engines)


@pytest.mark.parametrize(
    ("target", "sent"),
    [
        ("/any/path", "/any/path"),
        ("/v1/completions?a=%2F..%2f//&b=%C3%A4+%20&&='\"<>{}|^`", None),
        ("/a%20b/%C3%A4/%41%5F?%41", "/a%20b/%C3%A4/A_?%41"),
        ("/x;y=1?q=a?b", None),
        ("/v1/completions/?a=b", "/v1/completions?a=b"),
    ],
)
def test_other_paths_go_on_in_one_spelling_and_every_query_as_it_came(
    url: str, engines: Engines, target: str, sent: str | None
) -> None:
    with wire.line(url) as line:
        line.send(b"GET ", target.encode(), b" HTTP/1.1\r\nhost: x\r\n\r\n")
        assert line.answer().status == 200
    assert asked(engines)[0].target.encode("latin-1") == (sent or target).encode()


def test_the_root_path_is_taken_off(engines: Engines, tmp_path: Path) -> None:
    with scripted.gateway(tmp_path, engines, "--root-path", "/llm") as gateway:
        for path in ("/llm/v1/completions", "/v1/completions"):
            assert wire.ask(gateway.url, "POST", path, {}).status == 200
        assert wire.ask(gateway.url, "GET", "/llm/health").status == 200
        assert wire.ask(gateway.url, "GET", "/llmx").status == 200
    assert {one.target for one in asked(engines)} == {"/v1/completions", "/llmx"}


def test_what_would_change_one_replica_of_many_is_refused(engines: Engines, tmp_path: Path, url: str) -> None:
    for path in ("/collective_rpc", "/update_weights/", "/scale%5Felastic_ep", "/%63ollective_rpc?x", "/x/%73leep"):
        answer = wire.ask(url, "POST", path, {})
        assert (answer.status, answer.error["type"]) == (403, "permission_error")
        assert "--allow-unsafe-routes" in answer.error["message"]
    assert not asked(engines)
    with scripted.gateway(tmp_path, engines, "--allow-unsafe-routes") as gateway:
        assert wire.ask(gateway.url, "POST", "/%63ollective_rpc", {}).status == 200


# JSON


@pytest.mark.parametrize(
    ("body", "position"),
    [
        (b'{"model": "m", }', "line 1 column 16 (char 15)"),
        (b'{"model": "m"', "line 1 column 14 (char 13)"),
        (b'{\n  "model": m\n}', "line 2 column 12 (char 13)"),
        (b"hello", "line 1 column 1 (char 0)"),
        (b'{"a": 1} {"b": 2}', "line 1 column 10 (char 9)"),
        (b'{"model": "\xff\xfe"}', "position 11"),
        (b"[" * 100_000, "recursion"),
    ],
)
def test_a_body_that_is_no_json_is_400_with_the_place(url: str, engines: Engines, body: bytes, position: str) -> None:
    answer = wire.ask(url, "POST", COMPLETIONS, body, JSON)
    assert (answer.status, answer.error["code"]) == (400, "bad_json")
    assert position in answer.error["message"]
    assert not asked(engines)


ACCEPTED = {
    "NaN": b'{"temperature": NaN, "top_p": -Infinity}',
    "a lone surrogate": b'{"prompt": "\\ud800"}',
    "a byte order mark": b'\xef\xbb\xbf{"prompt": "x"}',
    "UTF-16": '{"prompt": "ä"}'.encode("utf-16"),
    "UTF-32": '{"prompt": "ä"}'.encode("utf-32-be"),
    "numbers of another type": b'{"user": 5, "max_tokens": 16.0, "n": 1.0, "seed": 1e400}',
    "wrong types": b'{"model": 7, "stream": "yes", "n": "x", "messages": 5, "prompt": {}, "previous_response_id": []}',
    "nulls": b'{"model": null, "stream": null, "n": null, "prompt": null}',
    "a huge number": b'{"n": 123456789012345678901234567890, "seed": -1}',
    "negative and zero": b'{"n": 0, "prompt": []}',
    "a list": b"[1, 2]",
    "a text": b'"hello"',
    "a duplicate field": b'{"model": "a", "model": "b"}',
    "white space": b' \r\n\t{ "prompt" :\n"x" } \n',
    "a mixed prompt": b'{"prompt": ["a", [1, 2], "b", 3]}',
    "token ids": b'{"prompt": [[1, 2], [3]], "n": 2}',
    "no body": b"",
}


@pytest.mark.parametrize("body", ACCEPTED.values(), ids=ACCEPTED)
def test_facts_never_refuse_and_the_body_goes_on_untouched(url: str, engines: Engines, body: bytes) -> None:
    assert wire.ask(url, "POST", COMPLETIONS, body, JSON).status == 200
    assert asked(engines)[0].body == body


@pytest.mark.parametrize(
    ("path", "headers", "body"),
    [
        (COMPLETIONS, {"content-encoding": "gzip"}, gzip.compress(b'{"prompt": "x"}', mtime=0)),
        (COMPLETIONS, {"content-encoding": "br"}, b"\x0b\x02\x80{}\x03"),
        ("/v1/unheard_of", {}, b'{"not": json'),
        ("/v1/audio/transcriptions", {"content-type": "multipart/form-data; boundary=x"}, b"--x\r\n\xff\x00\r\n--x--"),
    ],
)
def test_what_is_not_plain_json_is_not_looked_into(
    url: str, engines: Engines, path: str, headers: dict[str, str], body: bytes
) -> None:
    assert wire.ask(url, "POST", path, body, headers).status == 200
    assert asked(engines)[0].body == body
    assert headers.items() <= asked(engines)[0].headers.items()


def test_a_chunked_body_arrives_whole(url: str, engines: Engines) -> None:
    with wire.line(url) as line:
        line.send(wire.request("POST", COMPLETIONS, headers={"transfer-encoding": "chunked"}))
        line.send(scripted.chunk(b'{"prompt":'), b'5;ext=1\r\n"x"} \r\n', scripted.END)
        assert line.answer().status == 200
    assert asked(engines)[0].body == b'{"prompt":"x"} '
    assert asked(engines)[0].headers["content-length"] == "15"


# models


def test_the_model_is_judged_only_where_several_are_served(url: str, engines: Engines, tmp_path: Path) -> None:
    assert wire.ask(url, "POST", COMPLETIONS, {"model": "nope"}).status == 200, "the engine may know it"

    def of(answer: wire.Answer) -> tuple[int, Any]:
        return answer.status, answer.replica if answer.status == 200 else answer.error["code"]

    with (
        scripted.engine(models=("small", "tiny")) as small,
        scripted.engine(models=("large",)) as large,
        scripted.gateway(tmp_path, (small, large)) as gateway,
    ):
        for _ in range(3):
            for model, replica in (("small", "0"), ("tiny", "0"), ("large", "1")):
                assert of(wire.ask(gateway.url, "POST", COMPLETIONS, {"model": model})) == (200, replica)
        answer = wire.ask(gateway.url, "POST", COMPLETIONS, {"model": "nope"})
        assert of(answer) == (404, "model_not_found")
        assert "`nope`" in answer.error["message"] and "large, small, tiny" in answer.error["message"]
        for body in ({}, {"model": 5}):
            assert of(wire.ask(gateway.url, "POST", COMPLETIONS, body)) == (400, "model_missing")
        path = "/v1/audio/transcriptions"
        assert of(wire.ask(gateway.url, "POST", path + "?model=large", b"--x--")) == (200, "1")
        assert of(wire.ask(gateway.url, "POST", path, b"--x--")) == (400, "model_missing")


def test_where_all_replicas_of_a_model_are_gone_that_is_said(tmp_path: Path) -> None:
    def gone(engine: Engine) -> wire.Answer:
        engine.healthy = False
        while (answer := wire.ask(gateway.url, "POST", COMPLETIONS, {"model": "small"})).status == 200:
            pass
        return answer

    with (
        scripted.engine(models=("small",)) as small,
        scripted.engine(models=("large",)) as large,
        scripted.gateway(tmp_path, (small, large), "--probe-seconds", "0.2") as gateway,
    ):
        answer = gone(small)
        assert (answer.status, answer.error["code"]) == (503, "no_ready_replica")
