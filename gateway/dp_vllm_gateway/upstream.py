"""Connections to one engine: requests out, answers in, kept open between exchanges.

It knows bytes and HTTP framing, and nothing of clients, routes or retries. llhttp (httptools) parses; what it lets
pass although it must not reach a client is caught here:

- the answer to a HEAD never completes: it is complete at its head;
- 100 and 103 look like whole answers: they are skipped;
- a second answer in the same read is parsed without a word: any byte after an answer closes the connection;
- a response head of any length is taken: beyond `HEAD_BYTES` the exchange fails, and beyond as much of trailers or
  chunk extensions without any body;
- a status of 0 to 99 looks like an interim answer, and 101 ends one without a request to upgrade: both are no answers.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Final, Protocol

import httptools

from dp_vllm_gateway.lookup import Lookup

HEAD_BYTES: Final = 64 << 10
"""The longest response head that is taken."""

VANISHED_SECONDS: Final = 60
"""After so long without a sign of life an engine's machine is taken for lost. Its kernel is asked, not the engine."""

IDLE_SECONDS: Final = 4.0
"""How long an idle connection is used again: less than the 5 s after which uvicorn closes it."""

FRAMING: Final = frozenset({b"content-length", b"transfer-encoding"})
"""Headers that tell where a body ends."""

Headers = list[tuple[bytes, bytes]]


def _chunk_header(read: int) -> bytes:
    """How a read of so many bytes begins that is exactly one chunk, if its size has as few digits as it can."""
    for digits in range(1, 8):
        size = read - digits - 4
        if size > 0 and len(f"{size:x}") == digits:
            return b"%x\r\n" % size
    return bytes(read + 1)  # no read of this length begins so


CHUNK_HEADERS: Final = tuple(map(_chunk_header, range(2048)))
"""By the length of what was read. Nearly every event of nearly every stream comes as one chunk, in one read: it is
recognised by this, and goes on as it is, without being parsed and framed anew."""


class UpstreamError(Exception):
    """The exchange failed: the engine's connection is gone or what it said is not HTTP."""


class Garbage(UpstreamError):
    """What the engine sent is no HTTP answer, or more of one than is taken."""


class Exchange(Protocol):
    """Who listens to an answer. Called from within the event loop's read; must not wait."""

    def on_head(self, status: int, headers: Headers) -> None:
        """The answer's final head is there."""

    def on_body(self, data: bytes, complete: bool) -> None:
        """Some of the body, decoded from its framing; `data` may be empty when `complete`."""

    def on_chunk(self, data: bytes) -> bool:
        """What was read is one chunk of the body, still framed; whether it was taken. If not, `on_body` follows."""

    def on_eof(self) -> None:
        """The engine closed the connection, and nothing but that tells where the body ends: there, or it was cut."""

    def on_lost(self, error: UpstreamError) -> None:
        """No more will come, and the answer is not complete."""


_HEADERS: Final = len(CHUNK_HEADERS)


class Connection:
    """One connection to an engine, serving one exchange at a time. An `asyncio.Protocol`, but for its base class."""

    __slots__ = (
        "_between_chunks",
        "_chunk_ended",
        "_complete",
        "_exchange",
        "_head_bytes",
        "_head_done",
        "_headers",
        "_keep_open",
        "_on_closed",
        "_out",
        "_parser",
        "_pieces",
        "_silent_bytes",
        "_to_head",
        "_when_closed",
        "closed",
        "idle_since",
        "on_body",
        "transport",
    )

    transport: asyncio.Transport

    def __init__(self, on_closed: Callable[["Connection"], None]) -> None:
        self._on_closed = on_closed
        self._exchange: Exchange | None = None
        self._out: list[bytes] = []
        self._pieces = 0
        self.on_body = self._out.append  # llhttp calls it with each piece of a body: without a function of ours between
        self._complete = False
        self._between_chunks = False
        """The last read ended with a whole chunk of a body: the next one is to begin."""
        self._parser = httptools.HttpResponseParser(self)
        self._when_closed: asyncio.Future[None] | None = None
        self.closed = False
        self.idle_since = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")
        self.transport = transport  # type: ignore[assignment]  # uvloop's transports are no asyncio.Transport
        connected = transport.get_extra_info("socket")
        if connected.family != socket.AF_UNIX:
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, VANISHED_SECONDS // 4)
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, VANISHED_SECONDS // 4)
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, VANISHED_SECONDS * 1000)

    def send(self, request: bytes, exchange: Exchange, *, head_only: bool) -> None:
        """Begin an exchange. `head_only`: the request is a HEAD, so its answer has no body."""
        self._exchange = exchange
        self._to_head = head_only
        self._headers: Headers = []
        self._head_bytes = 0
        self._head_done = False
        self._silent_bytes = 0
        """Since the last piece of a body: chunk extensions and trailers, of which nothing is used."""
        self._between_chunks = self._chunk_ended = False
        self._complete = False
        self._keep_open = False
        self.transport.write(request)

    def reusable(self) -> bool:
        """Whether the last answer is complete and the engine keeps the connection open."""
        return self._keep_open and not self.closed

    async def stays_open(self, seconds: float) -> bool:
        """Whether the engine, which has answered, keeps the connection for so long: one that ends closes it."""
        if not self.reusable():
            return False
        self._when_closed = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(seconds):
                await self._when_closed
        except TimeoutError:
            return self.reusable()
        finally:
            self._when_closed = None
        return False

    def close(self) -> None:
        """Drop the connection at once; the engine aborts what it was doing for it."""
        self._exchange = None
        self.closed = True
        self.transport.abort()

    # asyncio calls

    def data_received(self, data: bytes) -> None:
        exchange = self._exchange
        if exchange is None:  # idle: nothing was asked
            self.close()
            return
        if self._between_chunks:
            length = len(data)
            if (
                length < _HEADERS
                and data.startswith(CHUNK_HEADERS[length])
                and data.endswith(b"\r\n")
                and exchange.on_chunk(data)
            ):
                return
            self._between_chunks = False
        if not self._head_done:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(Garbage(str(error.__context__ or error)))
            return
        if not self._head_done:
            if self._head_bytes > HEAD_BYTES:
                self._fail(Garbage(f"the head of the answer is longer than {HEAD_BYTES} bytes"))
            return
        if self._complete or len(self._out) != 1:
            if not (self._complete or self._out) and self._is_silent(len(data)):
                self._fail(Garbage(f"between two pieces of the body are more than {HEAD_BYTES} bytes"))
                return
            self._pass_on(exchange)
        else:
            self._between_chunks = self._chunk_ended and data.endswith(b"\r\n")
            self._silent_bytes = 0
            exchange.on_body(self._out.pop(), False)

    def _is_silent(self, length: int) -> bool:
        """Whether, with a read of this length, too much has come that is no part of the body."""
        self._silent_bytes += length
        return self._silent_bytes > HEAD_BYTES

    def _pass_on(self, exchange: Exchange) -> None:
        out = self._out
        if self._complete:
            del out[self._pieces :]  # what follows the answer is not the client's
            self._exchange = None
        elif not out:
            return
        else:
            self._silent_bytes = 0
        data = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        exchange.on_body(data, self._complete)

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        """A request is in memory anyway: nothing is gained by writing it more slowly."""

    def resume_writing(self) -> None:
        """See `pause_writing`."""

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self._on_closed(self)
        if self._when_closed is not None and not self._when_closed.done():
            self._when_closed.set_result(None)
        exchange = self._exchange
        if exchange is None:
            return
        if exc is None and self._head_done and FRAMING.isdisjoint([name for name, _ in self._headers]):
            self._exchange = None
            exchange.on_eof()
        else:
            self._fail(UpstreamError(str(exc) if exc else "connection closed"))

    def _fail(self, error: UpstreamError) -> None:
        exchange = self._exchange
        complete = self._complete
        self.close()
        if exchange is None:
            return
        if complete:  # the answer was whole; what follows it is not the client's
            self._exchange = exchange
            self._pass_on(exchange)
        else:
            exchange.on_lost(error)

    # llhttp calls

    def on_message_begin(self) -> None:
        if self._complete:
            self._keep_open = False  # more than one answer

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._complete or self._head_done:  # of another answer, or a trailer
            return
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        if self._complete or self._exchange is None:
            return
        status = self._parser.get_status_code()
        if status < 200:
            if status < 100 or status == 101:
                raise Garbage(f"{status:03} is no status of an answer")
            return
        if status > 599:
            raise Garbage(f"{status} is no status of an answer")
        headers = self._headers
        if self._head_bytes > HEAD_BYTES and sum(len(name) + len(value) + 4 for name, value in headers) > HEAD_BYTES:
            raise Garbage(f"the head of the answer is longer than {HEAD_BYTES} bytes")
        self._head_done = True
        self._exchange.on_head(status, headers)
        if self._to_head:
            self._pieces = 0
            self._complete = True  # the parser waits for a body that will not come: the connection is not used again

    def on_chunk_header(self) -> None:
        self._chunk_ended = False

    def on_chunk_complete(self) -> None:
        self._chunk_ended = True

    def on_message_complete(self) -> None:
        if self._complete:  # what followed the answer to a HEAD
            return
        if self._head_done:
            self._complete = True
            self._pieces = len(self._out)
            self._keep_open = bool(self._parser.should_keep_alive())
        else:  # 100 or 103
            self._headers = []


class Connections:
    """The connections to one engine. One is lent to each exchange and comes back only from it."""

    __slots__ = ("_idle", "_lookup", "_loop", "_open", "_path", "_port", "_timeout_seconds")

    def __init__(self, address: str, *, connect_seconds: float) -> None:
        host, _, port = address.rpartition(":")
        self._path = address[5:] if address.startswith("unix:") else ""
        self._port = 0 if self._path or not address else int(port)
        self._lookup = Lookup(host.strip("[]"), self._port)
        self._timeout_seconds = connect_seconds
        self._idle: list[Connection] = []
        self._open: set[Connection] = set()
        self._loop = asyncio.get_running_loop()

    def idle(self, now: float) -> Connection | None:
        """A connection that was used before, if one is fresh enough."""
        idle = self._idle
        while idle:
            connection = idle.pop()
            if not connection.closed and now - connection.idle_since < IDLE_SECONDS:
                return connection
            connection.close()
        return None

    async def connect(self) -> Connection:
        """A new connection. Raises OSError, of which TimeoutError is one."""
        async with asyncio.timeout(self._timeout_seconds):
            connection = await (self._connect_unix() if self._path else self._connect_tcp())
        self._open.add(connection)
        return connection

    async def _connect_unix(self) -> Connection:
        _, connection = await self._loop.create_unix_connection(self._connection, self._path)  # type: ignore[type-var]
        return connection

    async def _connect_tcp(self) -> Connection:
        """Connect to the first of the host's addresses that takes it."""
        addresses = await self._lookup.addresses()
        for address in addresses[:-1]:
            with contextlib.suppress(OSError):
                return await self._connect_to(address)
        return await self._connect_to(addresses[-1])

    async def _connect_to(self, address: str) -> Connection:
        _, connection = await self._loop.create_connection(self._connection, address, self._port)  # type: ignore[type-var]
        return connection

    def give_back(self, connection: Connection, now: float) -> None:
        """End an exchange: keep the connection if its answer is complete, else close it."""
        if connection.reusable():
            connection.idle_since = now
            self._idle.append(connection)
        elif not connection.closed:
            connection.close()

    def close(self) -> None:
        """Close all, those in the middle of an exchange too."""
        for connection in list(self._open):
            connection.transport.abort()
        self._idle.clear()

    def _connection(self) -> Connection:
        return Connection(self._closed)

    def _closed(self, connection: Connection) -> None:
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
