"""HTTP's own rules: methods without a body, old clients, several requests in one piece, and attempts to confuse."""

from typing import Any

import pytest
import scripted
import wire
from scripted import END, STREAM, Asked, Engines, Peer, event, said

PATH = "/v1/completions"
BODY = b'{"prompt": "x"}'


def asked(engines: Engines) -> list[Asked]:
    return [asked for engine in engines for asked in engine.asked]


# HEAD


@pytest.mark.parametrize("framing", [{"content_length": 1234}, {}, {"transfer_encoding": "chunked"}])
@pytest.mark.parametrize("kind", ["application/json", "text/event-stream", "text/plain"])
def test_the_answer_to_head_ends_at_its_head(url: str, engines: Engines, framing: dict[str, Any], kind: str) -> None:
    for engine in engines:
        engine.script = scripted.saying(scripted.head(content_type=kind, **framing))
    with wire.line(url) as line:
        for _ in range(3):
            line.send(wire.request("HEAD", "/any"))
            answer = line.answer("HEAD")
            assert (answer.status, answer.headers["content-type"]) == (200, kind)
            assert answer.headers.get("content-length") in (None, "1234"), "as a GET's would be, or nothing"
        line.send(wire.request("GET", "/health"))
        assert line.answer().status == 200
    assert [one.method for one in asked(engines)] == ["HEAD"] * 3


def test_head_of_the_gateways_own_answers(url: str) -> None:
    with wire.line(url) as line:
        for path in ("/health", "/ready", "/metrics", "/v1//x", "/v1/models"):
            line.send(wire.request("HEAD", path))
            assert line.answer("HEAD").body == b""
        line.send(wire.request("GET", "/health"))
        assert line.answer().status == 200


# old clients


def test_http_1_0_gets_a_body_that_ends_with_the_connection(url: str, engines: Engines) -> None:
    for engine in engines:
        engine.script = scripted.saying(STREAM, event(said("one")), event(b"[DONE]"), END)
    with wire.line(url) as line:
        line.send(wire.request("POST", PATH, BODY, version="1.0"))
        answer = line.answer()
        assert answer.body.endswith(b"data: [DONE]\n\n")
        assert not {"transfer-encoding", "content-length"} & set(answer.headers)
        assert line.rest() == b""


def test_http_1_0_may_keep_its_connection_where_the_length_is_known(url: str) -> None:
    with wire.line(url) as line:
        for _ in range(2):
            line.send(wire.request("POST", PATH, BODY, {"connection": "keep-alive"}, version="1.0"))
            answer = line.answer()
            assert (answer.status, answer.headers["connection"]) == (200, "keep-alive")
        line.send(wire.request("POST", PATH, BODY, version="1.0"))
        assert line.answer().headers["connection"] == "close"
        assert line.rest() == b""


def test_a_client_may_ask_for_the_end_of_the_connection(url: str) -> None:
    for path, body in ((PATH, BODY), ("/health", None), ("/v1//x", None)):
        with wire.line(url) as line:
            line.send(wire.request("POST" if body else "GET", path, body, {"connection": "close"}))
            assert line.answer().headers["connection"] == "close"
            assert line.rest() == b""


def test_a_client_that_would_rather_speak_http_2_keeps_its_connection(url: str, engines: Engines) -> None:
    offer = {"connection": "Upgrade, HTTP2-Settings", "upgrade": "h2c", "http2-settings": "AAEAAEAAAAIAAAAB"}
    with wire.line(url) as line:
        for _ in range(2):
            line.send(wire.request("POST", PATH, BODY, offer))
            answer = line.answer()
            assert (answer.status, answer.headers.get("connection")) == (200, None)
    assert [one.body for one in asked(engines)] == [BODY, BODY]


def test_a_client_of_http_1_0_is_not_told_to_go_on(url: str, engines: Engines) -> None:
    with wire.line(url) as line:
        line.send(wire.request("POST", PATH, BODY, {"expect": "100-continue"}, version="1.0"))
        assert line.answer().status == 200
    assert [one.body for one in asked(engines)] == [BODY]


@pytest.mark.parametrize("offer", [{}, {"connection": "Upgrade", "upgrade": "h2c"}])
@pytest.mark.parametrize("length", ["0" * 5000 + "{}", "9" * 5000, "1" + "0" * 25, "+{}", "-1", "{}.0"])
def test_a_length_of_any_digits_is_read_or_refused(
    url: str, engines: Engines, offer: dict[str, str], length: str
) -> None:
    head = wire.request("POST", PATH, None, {"content-length": length.format(len(BODY)), **offer})
    with wire.line(url) as line:
        line.send(head + BODY)
        status = line.answer().status
    assert status in (200, 400, 413, 431)
    assert [one.body for one in asked(engines)] == [BODY] * (status == 200)


OFFER = {"connection": "Upgrade", "upgrade": "h2c"}
CHUNKED = b"transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"


@pytest.mark.parametrize("offer", [OFFER, {"connection": "upgrade, x", "UPGRADE": "TLS/1.0, foo"}])
@pytest.mark.parametrize("before", [[], [wire.request("GET", "/0")]])
@pytest.mark.parametrize("body", [None, b"{}", b"upgrade\r\n\r\n: x"])
def test_what_follows_an_offer_of_another_protocol_is_answered(
    url: str, engines: Engines, offer: dict[str, str], before: list[bytes], body: bytes | None
) -> None:
    sent = [*before, *[wire.request("POST", f"/{number}", body, offer) for number in (1, 2)]]
    sent += [wire.request("POST", "/3", BODY), b"POST /4 HTTP/1.1\r\nhost: x\r\n" + CHUNKED]
    with wire.line(url) as line:
        line.send(*sent)
        assert [line.answer().status for _ in sent] == [200] * len(sent)
    with wire.line(url) as line:
        for byte in sent[-3]:
            line.send(bytes((byte,)))
        line.send(sent[-1])
        first = line.answer()
        assert first.status == 200
        assert first.headers.get("connection") == "close" or line.answer().status == 200, (
            "answered, or known to be lost"
        )


def test_every_one_of_very_many_offers_is_answered(url: str) -> None:
    with wire.line(url) as line:
        line.send(*[wire.request("GET", "/health", None, OFFER)] * 500)
        assert {line.answer().status for _ in range(500)} == {200}


@pytest.mark.parametrize("before", [b"GET /0 HTTP/1.1\r\nhost: x\r\n\r\n", b""])
@pytest.mark.parametrize(
    "last",
    [b"GET /1 HTTP/1.1\r\nhost: x\r\nConnection: close\r\n\r\n", b"POST /1 HTTP/1.0\r\ncontent-length: 2\r\n\r\n{}"],
)
@pytest.mark.parametrize("more", [b"GET /2 HTTP/1.1\r\nhost: x\r\n\r\n", b"\r\n", b"\0\1 garbage", b"{}"])
def test_what_follows_the_last_request_does_not_keep_it_from_its_answer(
    url: str, before: bytes, last: bytes, more: bytes
) -> None:
    with wire.line(url) as line:
        line.send(before, last, more)
        for _ in range(1 + bool(before)):
            answer = line.answer()
            assert answer.status == 200
        assert answer.headers["connection"] == "close"
        assert line.rest() == b""


def test_who_still_sends_what_is_no_body_reads_why_it_is_refused(url: str) -> None:
    head = b"POST /1 HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    with wire.line(url) as line:
        line.send(head, b"5;" + b"a" * 2_000_000)
        assert line.answer().status == 400
        assert line.read(1) == b"", "the connection's end, not a reset"


def test_a_request_before_one_that_is_none_is_answered(url: str) -> None:
    with wire.line(url) as line:
        line.send(wire.request("GET", "/0", None, {"te": "trailers"}), b"\1 garbage\r\n\r\n")
        assert [line.answer().status for _ in range(2)] == [200, 400]


def test_what_follows_an_offer_in_chunks_is_answered_or_the_connection_ends(url: str) -> None:
    offered = b"POST /1 HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: h2c\r\n" + CHUNKED
    with wire.line(url) as line:
        line.send(offered, wire.request("POST", PATH, BODY))
        answer = line.answer()
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert line.rest() == b""


# several requests


def test_requests_sent_in_one_piece_are_answered_in_order(url: str, engines: Engines) -> None:
    def name(peer: Peer, one: Asked) -> None:
        peer.send(scripted.whole(200, {"target": one.target, "body": one.body.decode()}))

    for engine in engines:
        engine.script = name
    with wire.line(url) as line:
        line.send(*[wire.request("POST", f"/r/{number}", b"x" * number) for number in range(20)])
        for number in range(20):
            assert line.answer().json() == {"target": f"/r/{number}", "body": "x" * number}


def test_after_a_refusal_the_connection_is_in_step_or_closed(url: str, engines: Engines) -> None:
    for refused in ("/v1//x", "/collective_rpc"):
        with wire.line(url) as line:
            line.send(wire.request("POST", refused, b"x" * 100_000), wire.request("POST", PATH, BODY))
            assert line.answer().status in (400, 403)
            rest = line.answer()
            assert rest.status == 200
    assert [one.body for one in asked(engines)] == [BODY, BODY]


def test_a_client_that_sends_byte_by_byte_is_understood(url: str, engines: Engines) -> None:
    with wire.line(url) as line:
        for byte in wire.request("POST", PATH, BODY):
            line.send(bytes((byte,)))
        assert line.answer().status == 200
    assert asked(engines)[0].body == BODY


def test_a_body_that_looks_like_many_offers_is_read_as_quickly_as_another(url: str, engines: Engines) -> None:
    piece = b"upgrade" + b"\r\n\r\n" * 15_000
    with wire.line(url) as line:
        line.send(wire.request("POST", "/any", headers={"transfer-encoding": "chunked"}))
        line.send(*[scripted.chunk(piece)] * 20, END)
        assert line.answer().status == 200
    assert asked(engines)[0].body == piece * 20


# attempts to confuse: what two readers could divide differently is read by nobody

SMUGGLED = b"GET /smuggled HTTP/1.1\r\nhost: x\r\n\r\n"
CONFUSING = {
    "both framings": b"content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "both framings, the other order": b"transfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n0\r\n\r\n",
    "two lengths": b"content-length: 0\r\ncontent-length: 36\r\n\r\n",
    "a list of lengths": b"content-length: 0, 36\r\n\r\n",
    "a length with a sign": b"content-length: +0\r\n\r\n",
    "a negative length": b"content-length: -1\r\n\r\n",
    "a length in hexadecimal": b"content-length: 0x0\r\n\r\n",
    "a length with a gap": b"content-length: 1 0\r\n\r\n",
    "a length without end": b"content-length: 99999999999999999999999\r\n\r\n",
    "an empty length": b"content-length: \r\n\r\n",
    "an unknown coding": b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunked, then another coding": b"transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "chunked twice": b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "a coding and chunked, in two lines": b"transfer-encoding: chunked\r\ntransfer-encoding: gzip\r\n\r\n0\r\n\r\n",
    "a space before the colon": b"transfer-encoding : chunked\r\n\r\n0\r\n\r\n",
    "a tab before the colon": b"content-length\t: 0\r\n\r\n",
    "a vertical tab in the coding": b"transfer-encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "a folded line": b"x-a: b\r\n content-length: 36\r\n\r\n",
    "a first line that is folded": b" x-a: b\r\n\r\n",
    "a zero byte in a value": b"x-a: b\x00c\r\n\r\n",
    "a zero byte in a name": b"x-\x00a: b\r\n\r\n",
    "a carriage return in a value": b"x-a: b\rcontent-length: 36\r\n\r\n",
    "a line without a colon": b"x-a\r\n\r\n",
    "a name that is empty": b": b\r\n\r\n",
    "a name with a space": b"x a: b\r\n\r\n",
    "a chunk's length in another notation": b"transfer-encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n",
    "a chunk's length with a sign": b"transfer-encoding: chunked\r\n\r\n+5\r\nhello\r\n0\r\n\r\n",
    "a chunk's length with an underscore": b"transfer-encoding: chunked\r\n\r\n1_0\r\nhello\r\n0\r\n\r\n",
    "a chunk that is longer than it says": b"transfer-encoding: chunked\r\n\r\n2\r\nhello\r\n0\r\n\r\n",
    "a chunk's length without end": b"transfer-encoding: chunked\r\n\r\nffffffffffffffffff\r\nhello\r\n0\r\n\r\n",
    "a chunk that ends in a bare line feed": b"transfer-encoding: chunked\r\n\r\n5\r\nhello\n0\r\n\r\n",
    "a line feed in a chunk's extension": b"transfer-encoding: chunked\r\n\r\n5;a\nhello\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("confusing", CONFUSING.values(), ids=CONFUSING)
def test_what_two_readers_could_divide_differently_is_refused(url: str, engines: Engines, confusing: bytes) -> None:
    with wire.line(url) as line:
        line.send(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\n", confusing, SMUGGLED)
        assert line.answer().status in (400, 413)
        assert line.rest() == b"", "nothing that follows on the connection is read"
    assert not asked(engines)


@pytest.mark.parametrize(
    "begin",
    [
        b"GET /any\r\n",
        b"GET /any HTTP/3.7\r\n",
        b"GET /any HTTP/2.0\r\n",
        b"GET /any HTTP/0.9\r\n",
        b"GET /any HTTP/1.1 \r\n",
        b"GET\t/any\tHTTP/1.1\r\n",
        b"G\x00T /any HTTP/1.1\r\n",
        b"GET /an\x00y HTTP/1.1\r\n",
        b"GET /a b HTTP/1.1\r\n",
        b"PRI * HTTP/2.0\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"hello?\r\n",
    ],
)
def test_a_line_that_is_no_request_is_answered_in_json_and_closed(url: str, engines: Engines, begin: bytes) -> None:
    with wire.line(url) as line:
        line.send(begin, b"host: x\r\n\r\n", SMUGGLED)
        answer = line.answer()
        assert answer.status == 400
        assert answer.error["type"] == "invalid_request_error"
        assert line.rest() == b""
    assert not asked(engines)


GET_ANY = b"GET /any HTTP/1.1\r\nhost: x\r\n"
LONG = {
    "a long line": GET_ANY + b"x-a: " + b"b" * 70_000,
    "many small lines": GET_ANY + b"".join(b"x-%d: y\r\n" % number for number in range(300)),
    "some long lines": GET_ANY + b"".join(b"x-%d: %b\r\n" % (number, b"y" * 30_000) for number in range(3)),
    "200 lines": GET_ANY + b"".join(b"x-%d: %b\r\n" % (number, b"y" * 400) for number in range(200)),
    "a long target": b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nhost: x\r\n",
    "a target and a line": b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\nhost: x\r\nx-a: " + b"b" * 40_000 + b"\r\n",
    "4 MB": GET_ANY + (b"x-a: " + b"b" * 65_000 + b"\r\n") * 64,
    "a long name": GET_ANY + b"x" * 70_000 + b": y",
}


@pytest.mark.parametrize("before", [b"", b"POST /first HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}"])
@pytest.mark.parametrize("end", [b"", b"\r\n\r\n"])
@pytest.mark.parametrize("head", LONG.values(), ids=LONG)
def test_a_head_of_more_than_64_kb_is_431(url: str, engines: Engines, head: bytes, end: bytes, before: bytes) -> None:
    with wire.line(url) as line:
        line.send(before)
        if before:
            assert line.answer().status == 200
        line.send(head, end)
        answer = line.answer()
        assert (answer.status, answer.error["type"]) == (431, "invalid_request_error")
        assert line.rest() == b""
    assert [one.target for one in asked(engines)] == ["/first"] * bool(before)


def test_trailers_are_bounded_too(url: str, engines: Engines) -> None:
    with wire.line(url) as line:
        line.send(b"POST /any HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n")
        line.send(*(b"x-%d: %b\r\n" % (number, b"y" * 60_000) for number in range(64)))
        assert line.answer().status == 400
    assert not asked(engines)


def test_a_head_of_60_kb_is_passed_on(url: str, engines: Engines) -> None:
    lines = b"".join(b"x-%d: %b\r\n" % (number, b"y" * 900) for number in range(66))
    with wire.line(url) as line:
        for _ in range(3):
            line.send(GET_ANY, lines, b"\r\n")
            assert line.answer().status == 200
    assert [one.head.count(b"y" * 900) for one in asked(engines)] == [66] * 3


SECRET = b"sk-secret"


@pytest.mark.parametrize(
    "head",
    [
        b"authorization: Bearer sk-secret\x00\r\n",
        b"authorization: Bearer sk-secret\x01\r\n",
        b"authorization : Bearer sk-secret\r\n",
        b"authorization: Bearer sk-secret\nx\r\n",
        b"authorization: Bearer sk-secret\r\n\tsk-secret\r\n\0",
        b"content-length: sk-secret\r\n",
        b"transfer-encoding: sk-secret\r\n",
        b"expect: sk-secret\r\n",
        b"authorization: Bearer sk-secret" + b"x" * 70_000,
        b"sec-websocket-key1: sk-secret\r\n",
        b"sk-secret\r\n",
        b"transfer-encoding: chunked\r\n\r\nsk-secret\r\n",
        b"transfer-encoding: chunked\r\n\r\n0\r\nauthorization: sk-secret\x00\r\n\r\n",
    ],
)
def test_an_error_quotes_nothing_of_the_headers(url: str, head: bytes) -> None:
    with wire.line(url) as line:
        line.send(b"POST /any HTTP/1.1\r\nhost: x\r\n", head, b"\r\n\r\n")
        answer = line.answer()
        assert answer.status in (400, 417, 431)
        assert answer.error["message"]
        assert SECRET not in answer.body


def test_lines_that_end_in_a_line_feed_are_not_read_two_ways(url: str, engines: Engines) -> None:
    with wire.line(url) as line:
        line.send(b"GET /any HTTP/1.1\nhost: x\nx-a: b\n\n", SMUGGLED)
        status = line.answer().status
    assert status == 400 or {one.target for one in asked(engines)} <= {"/any", "/smuggled"}
    assert all(b"\n" not in one.head.replace(b"\r\n", b"") for one in asked(engines))
