"""Which headers of an engine's answer reach a client, and where they may lead it. Pure."""

import pytest

from dp_vllm_gateway.headers import BadAnswer, returning
from dp_vllm_gateway.places import of_endpoint

HOST = b"10.0.0.7:8000"


def lines(*headers: tuple[str, str]) -> list[str]:
    made = returning([(name.encode(), value.encode()) for name, value in headers], HOST, b"/root")
    return made.lines.decode().splitlines()


@pytest.mark.parametrize(
    "connection",
    [["X-Foo"], ["keep-alive, x-foo"], ["close,X-FOO ,"], ["keep-alive", "x-foo"], ["x-foo", "close"], ["a", "x-foo"]],
)
def test_what_any_connection_line_names_goes_no_further(connection: list[str]) -> None:
    named = [("connection", value) for value in connection]
    assert lines(("x-foo", "1"), *named, ("x-bar", "2"), ("x-foo", "3")) == ["x-bar: 2"]


def test_what_frames_a_body_is_read_even_if_connection_names_it() -> None:
    made = returning([(b"connection", b"content-length, content-type"), (b"content-length", b"5")])
    assert made.length == 5
    with pytest.raises(BadAnswer):
        lines(("connection", "transfer-encoding"), ("transfer-encoding", "gzip"))


@pytest.mark.parametrize("name", ["keep-alive", "trailer", "upgrade", "proxy-authenticate", "te", "proxy-connection"])
def test_headers_of_one_connection_go_no_further(name: str) -> None:
    assert not lines((name, "x"))


@pytest.mark.parametrize("coding", ["gzip", "gzip, chunked", "chunked, chunked", "identity", "", "chunked;q=1"])
def test_a_body_in_another_transfer_coding_is_no_answer(coding: str) -> None:
    with pytest.raises(BadAnswer, match="transfer-encoding"):
        lines(("transfer-encoding", coding))


@pytest.mark.parametrize("name", ["x-request-id", "x-dp-vllm-replica", "x-dp-vllm-reason"])
def test_what_the_gateway_says_of_an_answer_no_engine_says(name: str) -> None:
    assert not lines((name, "x"))


def test_access_control_is_the_endpoints() -> None:
    assert not lines(("access-control-allow-origin", "*"), ("access-control-of-tomorrow", "x"))
    assert lines(("vary", "Accept, origin"), ("vary", "ORIGIN"), ("vary", "*")) == ["vary: Accept", "vary: *"]


ITSELF = ["http://10.0.0.7:8000", "HTTP://10.0.0.7:8000", "//10.0.0.7:8000", "http://u:p@10.0.0.7:8000"]
ITSELF += ["https://10.0.0.7", "http://localhost", "http://127.0.0.1:8000", "http://0.0.0.0:8000", "http://[::1]:8000"]


@pytest.mark.parametrize("name", ["location", "content-location"])
@pytest.mark.parametrize("itself", ITSELF)
@pytest.mark.parametrize(
    ("path", "seen"),
    [
        ("/v1/models?a=b#c", "/root/v1/models?a=b#c"),
        ("", "/root/"),
        ("?a", "/root/?a"),
        ("//evil.example/x", "/root/evil.example/x"),
        ("/\\evil.example", "/root/evil.example"),
    ],
)
def test_an_engines_own_address_becomes_a_path_of_the_clients(name: str, itself: str, path: str, seen: str) -> None:
    assert lines((name, itself + path)) == [f"{name}: {seen}"]


@pytest.mark.parametrize(
    ("value", "seen"),
    [
        ("/v1/models", "/root/v1/models"),
        ("models", "models"),
        ("?page=2", "?page=2"),
        ("https://docs.vllm.ai/en", "https://docs.vllm.ai/en"),
        ("//docs.vllm.ai/en", "//docs.vllm.ai/en"),
        ("http://10.0.0.70:8000/x", "http://10.0.0.70:8000/x"),
        ("mailto:a@10.0.0.7", "mailto:a@10.0.0.7"),
    ],
)
def test_other_places_stay_what_they_are(value: str, seen: str) -> None:
    assert lines(("location", value)) == [f"location: {seen}"]


@pytest.mark.parametrize(
    ("value", "seen"),
    [
        ("5; url=http://10.0.0.7:8000/a", "5; url=/root/a"),
        ("0;URL='http://localhost/a'", "0;URL='/root/a'"),
        ("5", "5"),
        ("1; url=https://docs.vllm.ai", "1; url=https://docs.vllm.ai"),
    ],
)
def test_a_refresh_leads_to_the_same_places(value: str, seen: str) -> None:
    assert lines(("refresh", value)) == [f"refresh: {seen}"]


def test_without_a_prefix_nothing_is_put_before_a_path() -> None:
    assert of_endpoint(b"http://localhost/v1/x", b"localhost", b"") == b"/v1/x"
    assert of_endpoint(b"/v1/x", b"localhost", b"") == b"/v1/x"
    assert of_endpoint(b"http://[fd00::1]:8000/x", b"[fd00::1]:8000", b"") == b"/x"
