"""Connections from clients: aiohttp's, with a leaner loop around each request.

A connection begins with plain requests, whose heads are read here (`plain`). The first request that is not plain, or
that does not wait for the answer to the one before, hands the connection to aiohttp's parser for the rest of its life:
each byte is read by one of them alone.

aiohttp makes a task of every request; ours serves it within the connection's own task, which is what a client's
departure cancels (docs/adr/0002). Of what aiohttp does not publish, this file relies on (its version is pinned, and a
test asserts each):

- `RequestHandler.start()` serves a connection, and is what `connection_lost()` cancels (`handler_cancellation`);
- `_messages`, `_waiter`, `_parser.message_consumed()`: parsed requests, and how to await the next;
- `_ErrInfo` stands for a request that is not HTTP; `_upgraded`: a WebSocket was asked for, by `_current_request`;
- `_keepalive_handle`, `_next_keepalive_close_time`, `_process_keepalive()` close idle connections;
- `_reading_paused`, `_buffer_paused`, `_max_msg_queue_size`, `_msg_queue_resume_size` bound pipelining, and
  `_resume_reading_if_drained()`, which calls `data_received()` without data, goes on;
- `_pause_transport_reading()`, `_resume_transport_reading()` bound bodies; `_read_bufsize` is how much of one is held;
- `_manager` is none once the client left; `_close` and `_force_close` say that the connection is to end;
- `_paused`, `_drain_helper()` are its transport's: it has more to write than the client takes;
- `_task_handler`, `_loop`, `_keepalive`, `_keepalive_timeout` are as they are called.

A head has the time of an idle connection and `head_bytes`; what aiohttp's parser leaves of that to do is in `intake`.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any, Final, cast

from aiohttp import StreamReader, web
from aiohttp.http import RawRequestMessage, StreamWriter
from aiohttp.streams import EMPTY_PAYLOAD
from aiohttp.web_protocol import RequestHandler, _ErrInfo

from dp_vllm_gateway import headers, replies
from dp_vllm_gateway.asked import Asked
from dp_vllm_gateway.crowd import Crowd, address_of
from dp_vllm_gateway.intake import MAX_LINES, Intake
from dp_vllm_gateway.outbox import Outbox
from dp_vllm_gateway.plain import PlainHeads
from dp_vllm_gateway.relay import Relay

Handler = Callable[[Asked, Relay], Awaitable[None]]
"""Answers one request."""

USER_TIMEOUT_MILLISECONDS: Final = 60_000
"""A client whose machine vanished is noticed after this time, also while much is on its way to it."""

LINGER_SECONDS: Final = 10.0
"""How long the rest of a body is read and dropped after it was refused, so that the client reads why."""


REFUSED_SECONDS: Final = 2.0
"""The same after what is no request, which has no end."""


class _Client(RequestHandler):
    __slots__ = (
        "_address",
        "_body",
        "_crowd",
        "_handler",
        "_held",
        "_intake",
        "_missing",
        "_outbox",
        "_plain",
        "_reads",
        "_refused",
        "_serving",
    )

    def __init__(
        self, server: "Server", handler: Handler, plain: PlainHeads, outbox: Outbox, crowd: Crowd, **given: Any
    ) -> None:
        super().__init__(server, **given)
        self._crowd = crowd
        self._address: str | None = None
        self._intake = Intake(given["max_line_size"])
        self._held = b""
        """What came behind as many requests as may wait. The parser would keep it too, but in one piece."""
        self._refused = False
        """What was read is no request, and nothing more is read."""
        self._handler = handler
        self._plain = plain
        self._outbox = outbox
        self._reads = True
        """Requests are read here, not by aiohttp's parser."""
        self._missing = 0
        """Bytes of a plain request's body that are still to come."""
        self._body: StreamReader | None = None
        """Where they go."""
        self._serving: Asked | None = None
        """The request that is being answered."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._address = address_of(transport)
        instead = self._crowd.enter(self._address)
        if instead is not None:
            cast(asyncio.Transport, transport).set_protocol(instead)  # uvloop's is none by its class
            instead.connection_made(transport)
            return
        super().connection_made(transport)
        connected = transport.get_extra_info("socket")
        if connected is not None and connected.family != socket.AF_UNIX:
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MILLISECONDS)

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self._crowd.leave(self._address)

    # reading

    def data_received(self, data: bytes) -> None:
        if self._reads:
            data = self._read(data)
            if not data:
                return
            self._reads = False
        if self._upgraded:
            super().data_received(data)
            return
        if not data:  # aiohttp has room again, for what its parser keeps first
            self._parse(data[: self._intake.end(data, 0)])
        data, self._held = self._held + data if self._held else data, b""
        start = 0
        while start < len(data) and not self._refused:
            if len(self._messages) >= self._max_msg_queue_size and not self._upgraded:
                self._held = data[start:]
                break
            end = len(data) if self._upgraded else self._intake.end(data, start)
            self._parse(data[start:end])
            start = end

    def _parse(self, piece: bytes) -> None:
        """Give the parser a piece."""
        queued = len(self._messages)
        super().data_received(piece)
        newest = self._messages[-1] if len(self._messages) > queued else None
        if newest is not None and isinstance(newest[0], _ErrInfo):
            self._refuse_rest()
        elif not self._upgraded and not self._intake.fed(piece, newest):
            self._refuse(431)

    def _refuse(self, status: int, message: str = "") -> None:
        """Answer with an error what is not read to its end."""
        self._messages.append((_ErrInfo(status, ValueError(message), message), EMPTY_PAYLOAD))
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        self._refuse_rest()

    def _refuse_rest(self) -> None:
        self._refused = True
        bodies: list[object] = [payload for _, payload in self._messages]
        if self._serving is not None:
            bodies.append(self._serving.body)
        for body in bodies:
            if isinstance(body, StreamReader) and body is not EMPTY_PAYLOAD and not body.is_eof():
                # what was to be the rest of it: aiohttp would let its reader wait for ever
                body.set_exception(web.RequestPayloadError("the body is not framed as HTTP asks"))

    def _read(self, data: bytes) -> bytes:
        """Take what belongs to a plain request; the rest is aiohttp's."""
        missing = self._missing
        if missing:
            assert self._body is not None
            self._missing = max(0, missing - len(data))
            self._body.feed_data(data[:missing])
            if not self._missing:
                self._body.feed_eof()
            return data[missing:]
        if self._close or self._force_close:
            return b""
        if self._serving is not None or self._messages:
            return data
        head = self._plain.read(data)
        if head is None:
            return data
        method, target, incoming, begin, length = head
        end = begin + length
        body: bytes | StreamReader = data[begin:end]
        if end > len(data):
            self._missing = end - len(data)
            self._body = reader = StreamReader(self, self._read_bufsize, loop=self._loop)
            reader.feed_data(data[begin:])
            body = reader
        self._messages.append((Asked(method, target, incoming, body), body))  # type: ignore[arg-type]  # aiohttp's own
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
        return data[end:]

    def pause_reading(self) -> None:
        if self._reads:  # aiohttp would pause its parser, which has nothing to parse
            self._reading_paused = True
            self._pause_transport_reading()
        else:
            super().pause_reading()

    def resume_reading(self, resume_parser: bool = True) -> None:
        if not self._reading_paused:  # aiohttp resumes after every piece of a body, parses nothing and polls the socket
            return
        if self._reads:
            self._reading_paused = False
            self._resume_transport_reading()
        else:
            super().resume_reading(resume_parser)

    # serving

    @property
    def asks(self) -> bool:
        """It has sent a request that is not answered yet."""
        return self._serving is not None or bool(self._messages)

    async def start(self) -> None:
        try:
            while not self._force_close and not self._close:
                message, payload = self._messages.popleft() if self._messages else await self._next()
                asked = message if isinstance(message, Asked) else self._asked(message, payload)
                self._keepalive = asked is not None and await self._serve(asked)
                if asked is not None and isinstance(payload, StreamReader) and not payload.is_eof():
                    await self._drop(payload)
                if asked is None or (self._refused and (self._close or not self._keepalive)):
                    await self._linger()
                if not self._keepalive:
                    break
                self._close_when_idle()
        finally:
            self._outbox.flush()
            if not self._force_close and self.transport is not None:
                self.transport.close()

    async def _next(self) -> Any:
        """The next request, once it has been read."""
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None
        return self._messages.popleft()

    def _asked(self, message: RawRequestMessage | _ErrInfo, payload: StreamReader) -> Asked | None:
        """What aiohttp's parser made of a request; None, and the client is told, if it is none."""
        self._make_room()
        if isinstance(message, _ErrInfo):
            self._answer_error(*self._intake.refusal(message.status, message.exc, message.message))
            return None
        if message.version.major != 1:
            self._answer_error(*self._intake.refusal(400, None, ""))
            return None
        if not self._intake.fits(message):
            self._answer_error(*self._intake.refusal(431, None, ""))
            return None
        upgrade = None
        if message.upgrade and self._upgraded:  # not one to HTTP/2, which is passed over
            self._outbox.flush()  # aiohttp writes what follows
            task = self._task_handler
            assert task is not None
            upgrade = web.BaseRequest(message, payload, self, StreamWriter(self, self._loop), task, self._loop)
            self._current_request = upgrade
        return Asked(
            *(message.method, message.path, headers.incoming(message.raw_headers), payload),
            http10=message.version < (1, 1),
            keep_alive=upgrade is None and not (message.should_close or (message.upgrade and self._intake.loses_more)),
            upgrade=upgrade,
        )

    def _answer_error(self, status: int, message: str) -> None:
        refused = Asked("", "", headers.incoming(()), b"", keep_alive=False)
        replies.send(replies.error(status, message), Relay(self, refused, self._outbox))

    def _make_room(self) -> None:
        """A request was taken: let the parser go on if it stopped because there were too many."""
        if self._parser is not None:
            self._parser.message_consumed()
        if self._buffer_paused and len(self._messages) <= self._msg_queue_resume_size:
            self._resume_reading_if_drained()

    async def _serve(self, asked: Asked) -> bool:
        """Answer one request; whether the connection stays open."""
        if self._manager is None:  # the client left
            return False
        relay = Relay(self, asked, self._outbox)
        self._serving = asked
        try:
            await self._handler(asked, relay)
            if self._paused:  # or a client that asks on and reads nothing would fill the memory with answers
                await self._drain_helper()
        except ConnectionError:
            return False
        except Exception as error:
            self._fail(asked, relay, error)
        finally:
            self._serving = None
        return relay.keep_alive

    def _fail(self, asked: Asked, relay: Relay, error: Exception) -> None:
        """Tell the client of an error of the gateway's own, if it has nothing yet; the connection is closed."""
        self.logger.error("a request ended in an error of the gateway's own", exc_info=error)
        relay.keep_alive = False
        if not relay.begun and asked.upgrade is None:  # else it speaks another protocol now, as far as is known here
            replies.send(replies.error(500, "the gateway failed to handle the request"), relay)

    async def _linger(self) -> None:
        """Drop what a client still sends that was refused: its connection would be reset before it reads why."""
        self._refused = True
        self._outbox.flush()
        transport = self.transport
        if transport is not None and not transport.is_closing():
            if transport.can_write_eof():
                transport.write_eof()
            await asyncio.sleep(REFUSED_SECONDS)  # ends when the client leaves

    async def _drop(self, payload: StreamReader) -> None:
        """Read the rest of a body that was not wanted; close if it does not end."""
        try:
            async with asyncio.timeout(LINGER_SECONDS):
                while not payload.is_eof():
                    await payload.readany()
        except (TimeoutError, web.RequestPayloadError, ConnectionError):
            self.close()

    def _process_keepalive(self) -> None:
        waits = self._waiter is not None and not self._waiter.done() and not self._force_close
        if waits and self._intake.unread and self._loop.time() >= self._next_keepalive_close_time:
            self._refuse(408, f"the request's head did not come within {self._keepalive_timeout:g} s")
        else:
            super()._process_keepalive()

    def _close_when_idle(self) -> None:
        close_time = self._loop.time() + self._keepalive_timeout
        self._next_keepalive_close_time = close_time
        if self._keepalive_handle is None:
            self._keepalive_handle = self._loop.call_at(close_time, self._process_keepalive)


class Server(web.Server):
    """aiohttp's low-level server with our client connections. Called once a connection."""

    def __init__(
        self,
        handler: Handler,
        *,
        idle_client_seconds: float,
        crowd: Crowd,
        head_bytes: int = 64 << 10,
    ) -> None:
        super().__init__(_never, handler_cancellation=True)
        self._handler = handler
        self._plain = PlainHeads()
        self._outbox = Outbox()
        self._crowd = crowd
        self._head_bytes = head_bytes
        self._idle_client_seconds = idle_client_seconds

    def open(self) -> bool:
        """Whether any client is connected."""
        return bool(self.connections)

    def busy(self) -> bool:
        """Whether any client waits for an answer."""
        return any(isinstance(client, _Client) and client.asks for client in self.connections)

    def __call__(self) -> RequestHandler:
        return _Client(
            *(self, self._handler, self._plain, self._outbox, self._crowd),
            loop=asyncio.get_running_loop(),
            access_log=None,  # is how it is turned off
            auto_decompress=False,
            keepalive_timeout=self._idle_client_seconds,
            max_line_size=self._head_bytes,
            max_field_size=self._head_bytes,
            max_headers=MAX_LINES,
        )


async def _never(request: web.BaseRequest) -> web.StreamResponse:
    """What aiohttp would serve a request by, if our connections did not serve them themselves."""
    raise NotImplementedError
