"""Random targets: what decides the route is what the engine reads, of what it is sent and of what the client sent."""

import random
import re
from urllib.parse import unquote

import fuzzing
import httptools
import pytest
from engine_paths import read_by_engine

from dp_vllm.engine.routes import HIDDEN, ROUTES, Reach, route_of
from dp_vllm_gateway.paths import target_of
from dp_vllm_gateway.replies import Refusal

pytestmark = pytest.mark.fuzz

PATHS = tuple(re.sub(r"\{.*?\}", "x", route.path).encode() for route in ROUTES)
PIECES = (
    *(b"%", b"%2", b"%25", b"%2f", b"%2E", b"%5c", b"%00", b"%0a", b"%23", b"%3f", b"%3B", b"%ff", b"%c3%a4"),
    *(b"/", b"//", b"/.", b"/..", b"\\", b"#", b"?", b";x", b";", b"/llm", b"\xc3\xa4", b"\xff", b"\xe2\x80\xae"),
    *(b"http://a", b"@", b":", b"/v1/models/", b"%2Fsleep", b"/collective_rpc", b"%255F", b"%E2%88%95", b"\xc0\xaf"),
)
GUARDED = tuple(
    (route.method, re.compile("^" + re.sub(r"\{\w+\}", "[^/]+", route.path) + "/?$"))
    for route in ROUTES
    if route.reach in (Reach.ALL, Reach.NEVER)
)
ROOTS = ("", "/llm", "/a/b", "/v1/models/m")
"""What an engine may have as its own `--root-path`."""


def written(rng: random.Random) -> str:
    """A route's path, with some characters encoded, once or twice, and edits."""
    encoded = b""
    for byte in rng.choice(PATHS):
        times = rng.choices((0, 1, 2), (20, 3, 1))[0] if byte != 47 or not rng.randrange(8) else 0
        piece = bytes((byte,)) if times == 0 else b"%%%02x" % byte
        encoded += piece.replace(b"%", b"%25") if times == 2 else piece
    if rng.randrange(4) == 0:
        encoded = rng.choice(ROOTS).encode() + encoded
    return (fuzzing.mutated(rng, encoded, PIECES) if rng.randrange(2) else encoded).decode("utf-8", "surrogateescape")


def reached(method: str, path: str) -> bool:
    """Whether an engine, with some root path of its own, has a route for it that concerns every replica."""
    behind = [path[len(root) :] for root in ROOTS if path.startswith(root)]
    return any(method == guarded and pattern.match(each) for guarded, pattern in GUARDED for each in behind)


def test_an_engine_reads_the_path_that_decided(seconds: float) -> None:
    refused = 0

    def check(rng: random.Random) -> None:
        nonlocal refused
        raw, root_path = written(rng), rng.choice(("", "", "/llm"))
        try:
            path, sent = target_of(raw, root_path)
        except Refusal:
            refused += 1
            return
        assert re.fullmatch(r"[!-~]+", sent.partition("?")[0]) and "#" not in sent
        assert read_by_engine(sent if re.fullmatch(r"[!-~]+", sent) else sent.partition("?")[0]) == path
        assert unquote(path) == path, "an engine behind another reader decodes it again"
        assert target_of(sent, "") == (path, sent)
        for method in ("GET", "POST", "DELETE"):
            if reached(method, path):
                assert route_of(method, path).reach in (Reach.ALL, Reach.NEVER, Reach.MERGED)
                assert route_of(method, path) is HIDDEN or not path.endswith("/")

    cases = fuzzing.fuzz(check, seconds)
    assert cases < 1000 or cases // 100 < refused < cases * 99 // 100, "only one side of the decision was seen"


def test_what_a_client_wrote_reaches_no_other_route_than_it_was_judged_by(seconds: float) -> None:
    """If an engine would read the client's own bytes as such a route, the gateway saw that route too."""

    def check(rng: random.Random) -> None:
        raw = written(rng)
        try:
            read = httptools.parse_url(raw.encode("utf-8", "surrogateescape")).path
        except httptools.HttpParserInvalidURLError:
            return
        for method in ("GET", "POST", "DELETE"):
            if read is not None and reached(method, unquote(read.decode("latin-1"))):
                try:
                    path, _ = target_of(raw, "")
                except Refusal:
                    continue
                assert route_of(method, path).reach in (Reach.ALL, Reach.NEVER, Reach.MERGED)

    fuzzing.fuzz(check, seconds)
