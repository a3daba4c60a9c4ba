"""A client that says exactly what a test wants to say, and tells exactly what came back."""

import contextlib
import http.client
import json
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

SECONDS = 20.0
"""How long a test waits for bytes."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    """By lower-case name."""
    body: bytes
    cut: bool = False
    """The body ended before its framing says so."""

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """The error in OpenAI's shape."""
        return dict(self.json()["error"])

    @property
    def replica(self) -> str | None:
        """Who answered."""
        return self.headers.get("x-dp-vllm-replica")


def _connect(url: str) -> socket.socket:
    if url.startswith("unix:"):
        connected = socket.socket(socket.AF_UNIX)
        connected.settimeout(SECONDS)
        try:
            connected.connect(url.removeprefix("unix:"))
        except OSError:
            connected.close()
            raise
        return connected
    parts = urlsplit(url)
    assert parts.hostname is not None and parts.port is not None
    connected = socket.create_connection((parts.hostname, parts.port), timeout=SECONDS)
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connected


class Line:
    """A connection to a server (`http://host:port` or `unix:/path`), for bytes."""

    def __init__(self, url: str) -> None:
        self.socket = _connect(url)
        self._file = self.socket.makefile("rb")

    def send(self, *pieces: bytes) -> None:
        self.socket.sendall(b"".join(pieces))

    def read(self, count: int) -> bytes:
        """Exactly `count` bytes, fewer at the end."""
        return self._file.read(count)

    def read_until(self, mark: bytes) -> bytes:
        """All bytes up to `mark` and with it."""
        data = b""
        while not data.endswith(mark):
            byte = self._file.read(1)
            assert byte, f"the connection ended after {data!r}"
            data += byte
        return data

    def rest(self) -> bytes:
        """All bytes up to the connection's end, however it ends."""
        data = b""
        with contextlib.suppress(ConnectionError):
            while piece := self._file.read1(65536):
                data += piece
        return data

    def answer(self, method: str = "GET") -> Answer:
        """The next answer."""
        response = http.client.HTTPResponse(_Kept(self._file), method=method)  # type: ignore[arg-type]
        response.begin()
        headers = {name.lower(): value for name, value in response.getheaders()}
        try:
            return Answer(response.status, headers, response.read())
        except http.client.IncompleteRead as error:
            return Answer(response.status, headers, error.partial, cut=True)
        except ConnectionError:
            return Answer(response.status, headers, b"", cut=True)

    def close(self) -> None:
        self._file.close()
        self.socket.close()


class _Kept:
    """A file that an HTTPResponse may close without closing it for the next one."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def makefile(self, mode: str) -> Any:
        return self

    def close(self) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


@contextlib.contextmanager
def line(url: str) -> Iterator[Line]:
    """A connection that is closed when the block ends."""
    opened = Line(url)
    try:
        yield opened
    finally:
        opened.close()


def request(
    method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None, version: str = "1.1"
) -> bytes:
    """A request's bytes. A body without a type is JSON: vLLM takes no other."""
    given = dict(headers or {})
    if body is not None and "content-type" not in map(str.lower, given):
        given["content-type"] = "application/json"
    lines = [f"{method} {path} HTTP/{version}", "host: test"]
    lines += [f"{name}: {value}" for name, value in given.items()]
    if body is not None:
        lines.append(f"content-length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b"")


def ask(url: str, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Answer:
    """One request on a connection of its own. A body that is not bytes is sent as JSON."""
    given = dict(headers or {})
    if body is not None and not isinstance(body, bytes):
        body = json.dumps(body).encode()
        given.setdefault("content-type", "application/json")
    with line(url) as opened:
        opened.send(request(method, path, body, given))
        return opened.answer(method)


def complete(url: str, headers: Mapping[str, str] | None = None, **fields: Any) -> Answer:
    """A completion."""
    return ask(url, "POST", "/v1/completions", {"model": "demo/model", "prompt": "hello", **fields}, headers)


def in_flight(admin: str) -> int:
    """Requests and sequences that a gateway counts, over all replicas."""
    state = ask(admin, "GET", "/state").json()
    return int(state["in_flight"] + sum(replica["sequences"] for replica in state["replicas"].values()))
