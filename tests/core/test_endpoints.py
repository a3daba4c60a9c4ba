"""The endpoints file: what is written is read, and nothing else is believed."""

import json
from pathlib import Path
from typing import Any

import pytest

from dp_vllm import endpoints
from dp_vllm.endpoints import Endpoint, EndpointSet, State
from dp_vllm.errors import UserError

SOME = EndpointSet(
    7,
    (
        Endpoint("0", "unix:/run/dp-vllm/0.sock", "1", State.READY, models=("m",)),
        Endpoint("node-1/2", "[::1]:8000", "12", State.DOWN, "it ended\nwith status 1"),
        Endpoint("2", "", state=State.STARTING),
    ),
    "why",
)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    endpoints.write(tmp_path / "endpoints.json", SOME)
    assert endpoints.read(tmp_path / "endpoints.json") == SOME


ODD: dict[str, tuple[Any, ...]] = {
    "generation": (-1, 2**53 + 1, 2**64, 10**20, 10**400, 1.5, "", True, [], {}),
    "name": (-1, "", "a\r\nx: y", "a" * 300, "\u2028", True, [], {}),
    "address": (
        *("x", ":80", "h:0", "h:65536", "h:" + "9" * 5000, "h:x", "a b:80", "h:\u0663", 1, []),
        *("unix:", "unix:x", "unix:/a\0b", "http://h:80"),
    ),
    "incarnation": ("a" * 300,),
    "state": ("x", 0),
    "models": ({}, [1]),
}


@pytest.mark.parametrize(("field", "odd"), [(field, odd) for field, values in ODD.items() for odd in values])
def test_what_is_odd_is_no_endpoints_file(tmp_path: Path, field: str, odd: Any) -> None:
    path = tmp_path / "endpoints.json"
    endpoints.write(path, SOME)
    written = json.loads(path.read_text())
    (written if field == "generation" else written["endpoints"][0])[field] = odd
    path.write_text(json.dumps(written))
    with pytest.raises(UserError, match="is not an endpoints file"):
        endpoints.read(path)


@pytest.mark.parametrize("text", [b"", b"\xff", b"[" * 100_000, b'{"x":' + b"[" * 100_000, b"NaN", b"9" * 5000])
def test_what_is_no_json_is_no_endpoints_file(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "endpoints.json"
    path.write_bytes(text)
    with pytest.raises(UserError, match="is not an endpoints file"):
        endpoints.read(path)
