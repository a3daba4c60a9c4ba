"""Which route a path is, in every spelling: the one that the engine reads, or none."""

import itertools
import re
from collections.abc import Iterator

import pytest
from engine_paths import read_by_engine

from dp_vllm.engine.routes import HIDDEN, ROUTES, UNKNOWN, Reach, Route, route_of
from dp_vllm_gateway.app import DOCS_PATHS, OPEN_PATHS
from dp_vllm_gateway.paths import MODEL, target_of
from dp_vllm_gateway.replies import Refusal

EXAMPLES = {"{id}": "resp_1", "{name}": "sql", "{model:path}": "m"}
PLAIN = {(route.method, re.sub(r"\{.*?\}", lambda match: EXAMPLES[match[0]], route.path)): route for route in ROUTES}


def decided(method: str, raw: str, root_path: str = "") -> Route | None:
    """The route of a target; None if it is refused. What an engine is sent is read by it as the path that decided."""
    try:
        path, sent = target_of(raw, root_path)
    except Refusal:
        return None
    assert read_by_engine(sent) == path
    assert target_of(sent, "") == (path, sent), "what is sent has one spelling"
    return route_of(method, path)


def spellings(path: str) -> Iterator[str]:
    """The path with each character percent-encoded, with all of them, and with each encoded twice."""
    escapes = [f"%{ord(character):02x}" for character in path]
    for at, escape in enumerate(escapes):
        for written in (escape, escape.upper(), escape.replace("%", "%25")):
            yield path[:at] + written + path[at + 1 :]
    yield "/" + "".join(escapes[1:])
    yield "".join(escapes)


@pytest.mark.parametrize(("method", "path"), PLAIN)
def test_every_spelling_of_a_route_is_that_route_or_400(method: str, path: str) -> None:
    route = PLAIN[method, path]
    assert decided(method, path) is route
    for spelling in spellings(path):
        assert decided(method, spelling) in (route, None), spelling
        assert decided(method, "/llm" + spelling, "/llm") in (route, None), spelling
    letters = [path[:at] + f"%{ord(path[at]):02X}" + path[at + 1 :] for at in range(len(path)) if path[at].isalpha()]
    assert {decided(method, spelling) for spelling in letters} == {route}, "an encoded letter is that letter"


@pytest.mark.parametrize(("method", "path"), PLAIN)
def test_a_slash_at_the_end_changes_nothing(method: str, path: str) -> None:
    """An engine redirects there: to the route, at its own address."""
    assert decided(method, path + "/") is PLAIN[method, path]
    assert decided(method, f"/llm{path}/?a=b", "/llm") is PLAIN[method, path]
    assert decided(method, path + "//") is None
    if not path.startswith(MODEL):  # a model's name may have a slash
        assert decided(method, path + "%2f") is None


GUARDED = [key for key, route in PLAIN.items() if route.reach in (Reach.ALL, Reach.NEVER)]


@pytest.mark.parametrize(("method", "path"), GUARDED)
def test_what_concerns_every_replica_is_not_reached_by_another_path(method: str, path: str) -> None:
    refused = [PLAIN[method, path], HIDDEN, None]
    prefixes = ("", "/llm", "/a/b", "/x;y", "/%6c", *(("/v1/models/m",) if method != "GET" else ()))
    ends = ("", "/", ";x", ";x/", "#x", "%23x", "?x", "%3Fx", "%00", "%0a", "%0d%0a", "%5c", "/.", "/%2e", "/..")
    for prefix, end in itertools.product(prefixes, ends):
        assert decided(method, prefix + path + end) in refused, prefix + path + end
    for other in (path.upper(), "/x" + path.upper(), path[0] + path[1:].replace("/", ";x/")):
        assert decided(method, other) in refused
    if PLAIN[method, path].reach is Reach.NEVER:
        for other in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "TRACE", "PROPFIND"):
            assert decided(other, path) in (PLAIN[method, path], PLAIN.get((other, path)))


def test_a_method_that_a_route_does_not_have_is_the_engines_to_refuse() -> None:
    assert decided("GET", "/sleep") is decided("PUT", "/v1/load_lora_adapter/") is UNKNOWN


@pytest.mark.parametrize("path", sorted(OPEN_PATHS | DOCS_PATHS))
def test_what_is_open_or_can_be_disabled_is_known_by_one_path(path: str) -> None:
    for spelling in (path, path + "/", *spellings(path)):
        try:
            assert target_of(spelling, "")[0] == path
        except Refusal:
            assert "%" in spelling


@pytest.mark.parametrize(
    ("raw", "sent"),
    [
        ("/any/path", "/any/path"),
        ("/", "/"),
        ("/x/", "/x/"),
        ("/x?", "/x?"),
        ("/a%20b/%C3%A4/%41?%41", "/a%20b/%C3%A4/A?%41"),
        ("/ä", "/%C3%A4"),
        ("/x;y=1@:!$&'()*+,-._~?q=a?b", "/x;y=1@:!$&'()*+,-._~?q=a?b"),
        ('/"<>{}|^`', "/%22%3C%3E%7B%7D%7C%5E%60"),
        ("/...", "/..."),
        ("/100%25", "/100%25"),
        ("/v1/models/demo%2Fmodel", "/v1/models/demo/model"),
        ("/v1/models/demo/model", "/v1/models/demo/model"),
        ("/%761/models/a%2fb%2Fc", "/v1/models/a/b/c"),
        ("/v1/models/%2Fdata%2Fmodel/", "/v1/models//data/model"),
        ("/v1/models//data/model", "/v1/models//data/model"),
    ],
)
def test_a_path_is_sent_in_one_spelling(raw: str, sent: str) -> None:
    assert target_of(raw, "")[1] == sent


@pytest.mark.parametrize(
    "raw",
    [
        *("", "*", "x", "http://x/v1/models", "//x", "/a//b", "/a/..", "/a/../b", "/./a", "/a%2fb", "/a%2Fb", "/%2f"),
        *("/a%5cb", "/a\\b", "/a%2eb", "/a%2E%2E/b", "/a%00", "/a%0a", "/a%7f", "/a%", "/a%4", "/a%zz", "/a%u0041"),
        *("/a%ff", "/a%c0%af", "/a%ed%a0%80", "/a\udcff", "/a%2541", "/a%252f", "/a#b", "/a?b#c", "/a%23b", "/a%3Fb"),
        *("/v1%2Fmodels/a", "/v1/models%2Fa", "/v1/models/..%2Fsleep", "/v1/models/a%2F%2Fb", "/v1/models/%2F"),
        *("/v1/models/%2F%2Fa", "/v1/models///a", "/v1/models//a//b", "/v1/models//../sleep", "/llm/v1/models//a"),
        *("/v1/models/a%2f..%2f..%2fsleep", "/v1/models/a%252Fb", "/v1/modelsx/a%2Fb"),
    ],
)
def test_a_path_that_could_be_read_in_two_ways_is_400(raw: str) -> None:
    with pytest.raises(Refusal) as refused:
        target_of(raw, "")
    assert (refused.value.status, refused.value.code) == (400, "bad_path")


def test_a_long_path_is_414_and_a_long_query_is_not() -> None:
    with pytest.raises(Refusal) as refused:
        target_of("/" + "%41" * 2000, "")
    assert refused.value.status == 414
    assert target_of("/v1/models?" + "%41" * 20_000, "")[0] == "/v1/models"


def test_the_root_path_is_taken_off_once() -> None:
    assert target_of("/llm", "/llm") == ("/", "/")
    assert target_of("/%6clm/health?x", "/llm") == ("/health", "/health?x")
    assert target_of("/llmx", "/llm") == ("/llmx", "/llmx")
    assert target_of("/llm/v1/models/a%2Fb", "/llm") == ("/v1/models/a/b", "/v1/models/a/b")
    assert decided("POST", "/llm/llm/sleep", "/llm") is HIDDEN
    assert decided("POST", "/llm%2Fsleep", "/llm") is None
