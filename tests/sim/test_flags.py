"""Flags of vLLM that change how an answer is sent."""

import json
from collections.abc import Iterator

import programs
import pytest
from programs import Program
from wire import ask, line, request

CHAT = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4, "stream": True}


@pytest.fixture(scope="module")
def flagged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    flags = ("--sse-keep-alive-interval", "0.1", "--enable-force-include-usage", "--disable-fastapi-docs")
    with programs.sim(tmp_path_factory.mktemp("flagged"), *flags) as program:
        yield program


def test_a_stream_that_has_nothing_to_say_sends_comments(flagged: Program) -> None:
    assert ask(flagged.url, "POST", "/sim/fault", b"hung").status == 200
    with line(flagged.url) as opened:
        opened.send(request("POST", "/v1/chat/completions", json.dumps(CHAT).encode()))
        assert b"data" not in opened.read_until(b": keep-alive\n\n")
        assert ask(flagged.url, "DELETE", "/sim/fault").status == 200
        assert b'"content":"This"' in opened.read_until(b"[DONE]")


def test_usage_is_told_unasked(flagged: Program) -> None:
    assert b'"completion_tokens":4' in ask(flagged.url, "POST", "/v1/chat/completions", CHAT).body


@pytest.mark.parametrize("path", ["/docs", "/openapi.json"])
def test_the_docs_can_be_off(flagged: Program, path: str) -> None:
    assert ask(flagged.url, "GET", path).status == 404
