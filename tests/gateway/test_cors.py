"""Browsers: which pages may use the endpoint, and that an answer says so."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import scripted
import wire
from scripted import END, Engines, event, said, saying, whole

PAGE = "https://page.example"
ASKS = {"origin": PAGE, "access-control-request-method": "POST", "access-control-request-headers": "authorization"}


def preflight(url: str, **headers: str) -> wire.Answer:
    given = ASKS | {name.replace("_", "-"): value for name, value in headers.items()}
    return wire.ask(url, "OPTIONS", "/v1/completions", headers=given)


ENGINES: Final[dict[str, Any]] = {
    "access_control_allow_origin": "*",
    "Access-Control-Allow-Credentials": "true",
    "access_control_expose_headers": "x-secret",
    "access_control_from_tomorrow": "yes",
    "vary": "Accept, Origin, Accept-Encoding",
}
"""What an engine says of it, which is not its to say."""


def told(url: str, method: str, path: str, **headers: str) -> list[tuple[str, str]]:
    """What an answer says of CORS, each header as often as it is there."""
    with wire.line(url) as line:
        line.send(wire.request(method, path, b"{}" if method == "POST" else None, headers))
        lines = line.read_until(b"\r\n\r\n").decode().split("\r\n")[1:-2]
    pairs = [(name.lower(), value) for name, _, value in (one.partition(": ") for one in lines)]
    return [pair for pair in pairs if pair[0].startswith(("access-control", "vary"))]


def all_told(url: str, engines: Engines, **headers: str) -> Iterator[dict[str, str]]:
    """The same of every kind of answer: whole, streamed, an engine's error, of all engines, our own, a refusal."""
    done = (event(said("one")), event(b"[DONE]"), END)
    for script in (
        saying(whole(200, said("fine", "stop"), **ENGINES)),
        saying(scripted.head(content_type="text/event-stream", transfer_encoding="chunked", **ENGINES), *done),
        saying(whole(422, {"error": {"message": "no"}}, **ENGINES)),
        saying(scripted.head(204, **ENGINES)),
    ):
        for engine in engines:
            engine.script = script
        pairs = told(url, "POST", "/v1/completions", origin=PAGE, **headers)
        assert ("vary", "Accept, Accept-Encoding") in pairs
        yield once([pair for pair in pairs if pair != ("vary", "Accept, Accept-Encoding")])
    for method, path in (("GET", "/v1/models"), ("GET", "/health"), ("POST", "/sleep"), ("GET", "/a/../b")):
        yield once(told(url, method, path, origin=PAGE, **headers))


def once(pairs: list[tuple[str, str]]) -> dict[str, str]:
    assert len(dict(pairs)) == len(pairs), "each header once"
    return dict(pairs)


def test_by_default_no_page_may_whatever_engines_say(url: str, engines: Engines) -> None:
    answer = preflight(url)
    assert (answer.status, answer.body) == (400, b"Disallowed CORS origin")
    assert "access-control-allow-origin" not in answer.headers
    assert wire.ask(url, "OPTIONS", "/v1/completions").status == 405, "it is no browser's"
    for one in all_told(url, engines):
        assert one == {"vary": "Origin"}
    assert told(url, "GET", "/health") == [("vary", "Origin")], "for caches"


def test_every_page_may_without_cookies(engines: Engines, tmp_path: Path) -> None:
    with scripted.gateway(tmp_path, engines, "--allowed-origins", '["*"]') as gateway:
        every_page_may(gateway.url, engines)


def every_page_may(url: str, engines: Engines) -> None:
    answer = preflight(url)
    assert (answer.status, answer.body) == (200, b"OK")
    assert answer.headers["access-control-allow-origin"] == "*"
    assert answer.headers["access-control-allow-methods"] == "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT, QUERY"
    assert answer.headers["access-control-allow-headers"] == "authorization"
    assert "access-control-allow-credentials" not in answer.headers
    for one in all_told(url, engines):
        assert one == {"access-control-allow-origin": "*", "vary": "Origin"}
    assert told(url, "GET", "/health") == [("vary", "Origin")], "for caches"


def test_named_pages_may_without_a_key_for_the_asking(engines: Engines, tmp_path: Path) -> None:
    names = ("--allowed-origins", f'["{PAGE}"]', "--allowed-methods", '["POST"]', "--allowed-headers", '["X-Mine"]')
    flags = (*names, "--allow-credentials")
    with scripted.gateway(tmp_path, engines, *flags, "--api-key", "right") as gateway:
        asked = preflight(gateway.url, access_control_request_headers="x-mine, content-type")
        assert asked.status == 200
        assert asked.headers["access-control-allow-origin"] == PAGE
        assert asked.headers["access-control-allow-methods"] == "POST"
        allowed = "Accept, Accept-Language, Content-Language, Content-Type, X-Mine"
        assert asked.headers["access-control-allow-headers"] == allowed
        assert asked.headers["access-control-allow-credentials"] == "true"
        assert preflight(gateway.url, origin="https://other.example").status == 400
        assert preflight(gateway.url, access_control_request_method="DELETE").status == 400
        assert preflight(gateway.url).body == b"Disallowed CORS headers", "authorization is not named"
        decided = {"access-control-allow-origin": PAGE, "access-control-allow-credentials": "true", "vary": "Origin"}
        for one in all_told(gateway.url, engines, authorization="Bearer right"):
            assert one == decided, "the endpoint's, and not the engine's"
        assert told(gateway.url, "GET", "/health", origin="https://other.example") == [("vary", "Origin")]
        answer = wire.complete(gateway.url, {"origin": PAGE, "authorization": "Bearer right"})
        assert answer.headers["access-control-allow-origin"] == PAGE
        assert "Origin" in answer.headers["vary"]
        answer = wire.complete(gateway.url, {"origin": "https://other.example", "authorization": "Bearer right"})
        assert "access-control-allow-origin" not in answer.headers
        refused = wire.complete(gateway.url, {"origin": PAGE})
        assert refused.status == 401
        assert refused.headers["access-control-allow-origin"] == PAGE, "else the page cannot read why"
        load = wire.ask(gateway.url, "GET", "/load", headers={"origin": PAGE, "authorization": "Bearer right"})
        assert load.headers["access-control-allow-origin"] == PAGE
