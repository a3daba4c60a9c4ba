"""An engine that does on its connections exactly what a test says, byte by byte: a real server in threads of its own.

It answers the gateway's looks by itself (`/health`, `/v1/models`, `/metrics`), so that a script sees nothing but what a
client asked.
"""

import contextlib
import itertools
import json
import socket
import struct
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias

import programs
from ports import free_port


def head(status: int = 200, **headers: object) -> bytes:
    """The head of an answer; `content_type="x"` is `content-type: x`."""
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([f"HTTP/1.1 {status} Said", *lines, "", ""]).encode()


def whole(status: int, value: Any, **headers: object) -> bytes:
    """A complete JSON answer."""
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    return head(status, content_type="application/json", content_length=len(body), **headers) + body


def chunk(data: bytes) -> bytes:
    """A piece of a chunked body; an empty one ends it."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(value: Any) -> bytes:
    """A server-sent event, as one chunk."""
    return chunk(b"data: " + (value if isinstance(value, bytes) else json.dumps(value).encode()) + b"\n\n")


STREAM = head(content_type="text/event-stream; charset=utf-8", transfer_encoding="chunked")
"""The head of a stream whose events come as chunks."""

END = chunk(b"")


def said(text: str, finish: str | None = None) -> dict[str, Any]:
    """A completion's chunk."""
    return {"choices": [{"index": 0, "text": text, "finish_reason": finish}]}


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as it arrived."""

    method: str
    target: str
    head: bytes
    """Request line and header lines, with the empty line."""
    body: bytes
    connection: int
    """Which of the engine's connections it came on."""

    @property
    def headers(self) -> dict[str, str]:
        """The header lines by lower-case name."""
        lines = self.head.decode("latin-1").split("\r\n")[1:-2]
        return {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}


class Peer:
    """The gateway's end of one connection, as the engine sees it."""

    def __init__(self, connection: socket.socket, number: int) -> None:
        self.socket = connection
        self._number = number
        self._buffer = b""

    def send(self, *pieces: bytes) -> None:
        self.socket.sendall(b"".join(pieces))

    def close(self) -> None:
        """End the connection in order (FIN)."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()

    def reset(self) -> None:
        """End the connection as a dead process does (RST)."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def left(self, seconds: float = programs.START_SECONDS) -> bool:
        """Whether the gateway closes the connection, within some time."""
        self.socket.settimeout(seconds)
        try:
            return not self.socket.recv(65536)
        except TimeoutError:
            return False
        except OSError:
            return True

    def read(self) -> Asked | None:
        """The next request; None when there will be none."""
        while b"\r\n\r\n" not in self._buffer:
            if not self._more():
                return None
        begin, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        method, target, _ = begin.split(b"\r\n")[0].decode("latin-1").split(" ")
        asked = Asked(method, target, begin + b"\r\n\r\n", b"", self._number)
        length = int(asked.headers.get("content-length", "0"))
        while len(self._buffer) < length:
            if not self._more():
                return None
        body, self._buffer = self._buffer[:length], self._buffer[length:]
        return Asked(method, target, asked.head, body, self._number)

    def _more(self) -> bool:
        try:
            data = self.socket.recv(65536)
        except OSError:
            return False
        self._buffer += data
        return bool(data)


Script = Callable[[Peer, Asked], None]

_numbers = itertools.count()


def saying(*pieces: bytes) -> Script:
    """A script that sends some bytes and keeps the connection."""
    return lambda peer, asked: peer.send(*pieces)


def then_closing(*pieces: bytes) -> Script:
    """A script that sends some bytes, of which there may be none, and closes the connection."""

    def script(peer: Peer, asked: Asked) -> None:
        peer.send(*pieces)
        peer.close()

    return script


FINE: Final = saying(whole(200, {"object": "text_completion", **said("fine", "stop")}))
"""A script that answers a completion."""


@dataclass(slots=True)
class Engine:
    """A scripted engine; `script` may be replaced at any time."""

    script: Script
    models: tuple[str, ...] = ("demo/model",)
    healthy: bool = True
    metrics: bytes = b""
    """What a scrape is answered; nothing: 404."""
    asked: list[Asked] = field(default_factory=list)
    """What clients asked, in order."""
    port: int = field(default_factory=free_port)
    host: str = "127.0.0.1"
    _listener: socket.socket | None = None
    _open: set[socket.socket] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def up(self) -> None:
        """Listen, from now on."""
        self._listener = socket.create_server((self.host, self.port), backlog=512)
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def down(self) -> None:
        """Refuse connections from now on, and end those that are open."""
        if self._listener is not None:
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        self.drop()

    def drop(self) -> None:
        """End the connections that are open."""
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        self._open.add(connection)
        peer = Peer(connection, next(_numbers))
        with contextlib.closing(connection), contextlib.suppress(OSError):
            while (asked := peer.read()) is not None:
                if self._looked(peer, asked):
                    continue
                self.asked.append(asked)
                self.script(peer, asked)
        self._open.discard(connection)

    def _looked(self, peer: Peer, asked: Asked) -> bool:
        """Answer a look of the gateway's own: it has no request id."""
        if "x-request-id" in asked.headers:
            return False
        if asked.target == "/health":
            peer.send(whole(200 if self.healthy else 503, b""))
        elif asked.target == "/v1/models":
            peer.send(whole(200, {"data": [{"id": model} for model in self.models]}))
        elif asked.target == "/metrics" and self.metrics:
            peer.send(whole(200, self.metrics))
        else:
            peer.send(whole(404, {}))
        return True


Engines: TypeAlias = tuple[Engine, Engine]


@contextlib.contextmanager
def engine(script: Script = FINE, **given: Any) -> Iterator[Engine]:
    """A scripted engine that listens."""
    running = Engine(script, **given)
    running.up()
    try:
        yield running
    finally:
        running.down()


def gateway(
    directory: Path, engines: Iterable[Engine], *flags: str
) -> contextlib.AbstractContextManager[programs.Program]:
    """A gateway before these engines, in their order."""
    replicas = [word for engine in engines for word in ("--replica", engine.url)]
    return programs.gateway(directory, *replicas, *flags)
