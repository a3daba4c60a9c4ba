"""Which header lines cross the gateway, in both directions."""

import gzip
import json

import pytest
import scripted
import wire
from scripted import Asked, Engines

PATH = "/v1/completions"


def only(engines: Engines) -> Asked:
    """The one request that reached an engine."""
    (asked,) = [asked for engine in engines for asked in engine.asked]
    return asked


def lines(asked: Asked) -> list[str]:
    """The header lines as they arrived."""
    return asked.head.decode("latin-1").split("\r\n")[1:-2]


def test_what_belongs_to_one_connection_is_not_passed_on(url: str, engines: Engines) -> None:
    headers = {
        "connection": "keep-alive, X-Mine, te",
        "keep-alive": "timeout=5",
        "proxy-authorization": "Basic x",
        "proxy-connection": "keep-alive",
        "te": "trailers",
        "trailer": "x-sum",
        "x-mine": "1",
        "x-kept": "2",
        "x-data-parallel-rank": "3",
        "x-dp-vllm-wait": "0",
    }
    assert wire.ask(url, "POST", PATH, {}, headers).status == 200
    seen = only(engines).headers
    assert set(seen) == {"host", "x-kept", "content-type", "x-request-id", "content-length"}
    assert seen["host"] == engines[0 if engines[0].asked else 1].url.removeprefix("http://")


def test_every_connection_line_names_what_is_not_passed_on(url: str, engines: Engines) -> None:
    sent = ["connection: keep-alive", "x-one: 1", "Connection: X-One", "connection: ,x-two , X-Three", "x-two: 2"]
    with wire.line(url) as line:
        for more in ([], ["proxy-connection: close"], ["proxy-connection: x-three", "connection: close"]):
            line.send("\r\n".join([f"POST {PATH} HTTP/1.1", "host: x", *sent, "x-four: 4", *more, "", ""]).encode())
            assert line.answer().status == 200
            assert {name for name in only(engines).headers if name.startswith(("x-t", "x-o", "x-f"))} == {"x-four"}
            assert not {"connection", "proxy-connection"} & set(only(engines).headers)
            for engine in engines:
                engine.asked.clear()
            if more:
                break


def test_other_headers_arrive_as_they_were_sent(url: str, engines: Engines) -> None:
    sent = [
        "X-Many: 1",
        "x-many: 2",
        "Accept: text/event-stream, */*",
        "Cookie: a=b; c=d",
        "TraceParent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "X-Session-ID: s",
        "endpoint-load-metrics-format: JSON",
        "Accept-Encoding: gzip, br",
        "X-Latin: caf\xe9",
        "X-Empty: ",
        "User-Agent: test/1",
        "Content-Type: application/json; charset=utf-8",
    ]
    with wire.line(url) as line:
        line.send("\r\n".join([f"POST {PATH} HTTP/1.1", "Host: there", *sent, "", ""]).encode("latin-1"))
        assert line.answer().status == 200
    arrived = [text for text in lines(only(engines)) if text.partition(":")[0] in {s.partition(":")[0] for s in sent}]
    assert arrived == sent


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("my-id_1.2", True),
        ("a" * 128, True),
        ("a" * 129, False),
        ("", False),
        ("two words", False),
        ("x\xe9", False),
        ('"; drop', False),
    ],
)
def test_a_request_has_one_id_on_both_sides(url: str, engines: Engines, given: str, kept: bool) -> None:
    engine_says = scripted.saying(scripted.whole(200, {}, x_request_id="engine"))
    for engine in engines:
        engine.script = engine_says
    answer = wire.ask(url, "POST", PATH, {}, {"x-request-id": given})
    seen = only(engines).headers["x-request-id"]
    assert (seen == given) == kept
    assert seen and answer.headers["x-request-id"] == seen
    assert answer.headers["x-dp-vllm-replica"] in ("0", "1")


def test_refusals_have_an_id_too(url: str) -> None:
    answer = wire.ask(url, "POST", "/v1//x", {}, {"x-request-id": "mine"})
    assert (answer.status, answer.headers["x-request-id"]) == (400, "mine")


def test_the_answers_headers_arrive_but_those_of_its_connection(url: str, engines: Engines) -> None:
    head = b"\r\n".join(
        [
            b"HTTP/1.1 418 I am a teapot",
            b"Content-Type: text/plain",
            b"Set-Cookie: a=1",
            b"Set-Cookie: b=2",
            b"Server: uvicorn",
            b"X-Latin: caf\xe9",
            b"Alt-Svc: h3=':443'",
            b"Keep-Alive: timeout=5",
            b"Proxy-Authenticate: Basic",
            b"Content-Length: 2",
            b"",
            b"ok",
        ]
    )
    for engine in engines:
        engine.script = scripted.saying(head)
    with wire.line(url) as line:
        line.send(wire.request("GET", "/any", headers={"x-request-id": "i"}))
        raw = line.read_until(b"\r\n\r\n").decode("latin-1")
        assert line.read(2) == b"ok"
    first, *said = raw.split("\r\n")[:-2]
    assert first.startswith("HTTP/1.1 418 ")
    names = [text.partition(":")[0].lower() for text in said]
    assert not {"alt-svc", "keep-alive", "proxy-authenticate", "transfer-encoding"} & set(names)
    values = {text.partition(": ")[2] for text in said}
    assert {"text/plain", "a=1", "b=2", "uvicorn", "caf\xe9", "i"} <= values
    assert names.count("content-length") == names.count("x-request-id") == names.count("x-dp-vllm-replica") == 1


def test_a_compressed_answer_arrives_as_it_is(url: str, engines: Engines) -> None:
    body = gzip.compress(json.dumps({"choices": [{"finish_reason": "abort"}]}).encode())
    for engine in engines:
        engine.script = scripted.saying(scripted.whole(200, body, content_encoding="gzip"))
    answer = wire.ask(url, "POST", PATH, {}, {"accept-encoding": "gzip"})
    assert (answer.headers["content-encoding"], answer.body) == ("gzip", body)


def test_an_answer_without_a_body_has_none(url: str, engines: Engines) -> None:
    for status in (204, 304):
        for engine in engines:
            engine.script = scripted.saying(scripted.head(status, etag="x", content_type="application/json"))
        with wire.line(url) as line:
            line.send(wire.request("GET", "/any"))
            answer = line.answer()
            assert (answer.status, answer.body, answer.headers["etag"]) == (status, b"", "x")
            assert "transfer-encoding" not in answer.headers
            line.send(wire.request("GET", "/health"))
            assert line.answer().status == 200, "the connection is still in step"
