"""Browsers: which pages may use the endpoint, and that an answer says so."""

from pathlib import Path

import scripted
import wire
from scripted import Engines

PAGE = "https://page.example"
ASKS = {"origin": PAGE, "access-control-request-method": "POST", "access-control-request-headers": "authorization"}


def preflight(url: str, **headers: str) -> wire.Answer:
    given = ASKS | {name.replace("_", "-"): value for name, value in headers.items()}
    return wire.ask(url, "OPTIONS", "/v1/completions", headers=given)


def test_by_default_no_page_may(url: str, engines: Engines) -> None:
    assert preflight(url).status == 405
    answer = wire.complete(url, {"origin": PAGE})
    assert answer.status == 200
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_named_pages_may_without_a_key_for_the_asking(engines: Engines, tmp_path: Path) -> None:
    flags = ("--allowed-origins", f'["{PAGE}"]', "--allowed-methods", '["POST"]', "--allow-credentials")
    with scripted.gateway(tmp_path, engines, *flags, "--api-key", "right") as gateway:
        asked = preflight(gateway.url)
        assert asked.status == 200
        assert asked.headers["access-control-allow-origin"] == PAGE
        assert asked.headers["access-control-allow-methods"] == "POST"
        assert asked.headers["access-control-allow-headers"] == "authorization"
        assert asked.headers["access-control-allow-credentials"] == "true"
        assert preflight(gateway.url, origin="https://other.example").status == 400
        assert preflight(gateway.url, access_control_request_method="DELETE").status == 400
        answer = wire.complete(gateway.url, {"origin": PAGE, "authorization": "Bearer right"})
        assert answer.headers["access-control-allow-origin"] == PAGE
        assert answer.headers["vary"] == "Origin"
        answer = wire.complete(gateway.url, {"origin": "https://other.example", "authorization": "Bearer right"})
        assert "access-control-allow-origin" not in answer.headers
        refused = wire.complete(gateway.url, {"origin": PAGE})
        assert refused.status == 401
        assert refused.headers["access-control-allow-origin"] == PAGE, "else the page cannot read why"
        load = wire.ask(gateway.url, "GET", "/load", headers={"origin": PAGE, "authorization": "Bearer right"})
        assert load.headers["access-control-allow-origin"] == PAGE
