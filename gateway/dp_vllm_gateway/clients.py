"""Connections from clients: aiohttp's request handler, with a leaner loop around each request.

aiohttp makes a task of every request; ours serves it within the connection's own task, which is what a client's
departure cancels (docs/adr/0002). Of what aiohttp does not publish, this file relies on (its version is pinned, and a
test asserts each):

- `RequestHandler.start()` serves a connection, and is what `connection_lost()` cancels (`handler_cancellation`);
- `_messages`, `_waiter`, `_current_request`, `_parser.message_consumed()`: parsed requests, and how to await the next;
- `finish_response()` sends a response that was not sent yet; `_upgraded`: a WebSocket was asked for;
- `_make_error_handler()` and `ERROR` stand for a request that is not HTTP;
- `_keepalive_handle`, `_next_keepalive_close_time`, `_process_keepalive()` close idle connections;
- `_reading_paused`, `_buffer_paused`, `_msg_queue_resume_size`, `_resume_reading_if_drained()` bound pipelining;
- `_manager` is none once the client left; `_close` and `_force_close` say that the connection is to end;
- `_task_handler`, `_loop`, `_keepalive`, `_keepalive_timeout` are as they are called; `_payload_writer`: see relay.py.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Any, Final

from aiohttp import StreamReader, web
from aiohttp.http import RawRequestMessage, StreamWriter
from aiohttp.web_protocol import ERROR, RequestHandler, _ErrInfo

from dp_vllm_gateway import replies
from dp_vllm_gateway.relay import Sent

USER_TIMEOUT_MILLISECONDS: Final = 60_000
"""A client whose machine vanished is noticed after this time, also while much is on its way to it."""

LINGER_SECONDS: Final = 10.0
"""How long the rest of a body is read and dropped after it was refused, so that the client reads why."""


class _Client(RequestHandler):
    __slots__ = ()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        connected = transport.get_extra_info("socket")
        if connected is not None and connected.family != socket.AF_UNIX:
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MILLISECONDS)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._messages and isinstance(self._messages[-1][0], _ErrInfo) and self._current_request is not None:
            # what was to be the rest of a body: aiohttp would let its reader wait for ever
            self._current_request.content.set_exception(web.RequestPayloadError("the body is not framed as HTTP asks"))

    def resume_reading(self, resume_parser: bool = True) -> None:
        if self._reading_paused:  # aiohttp resumes after every piece of a body, parses nothing and polls the socket
            super().resume_reading(resume_parser)

    @property
    def asks(self) -> bool:
        """It has sent a request that is not answered yet."""
        return self._current_request is not None or bool(self._messages)

    async def start(self) -> None:
        try:
            while not self._force_close and not self._close:
                message, payload = self._messages.popleft() if self._messages else await self._next()
                self._make_room()
                self._keepalive = await self._serve(message, payload)
                if not payload.is_eof():
                    await self._drop(payload)
                if not self._keepalive:
                    break
                self._close_when_idle()
        finally:
            if not self._force_close and self.transport is not None:
                self.transport.close()

    async def _next(self) -> Any:
        """The next request, once it has been parsed."""
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None
        return self._messages.popleft()

    def _make_room(self) -> None:
        """A request was taken: let the parser go on if it stopped because there were too many."""
        if self._parser is not None:
            self._parser.message_consumed()
        if self._buffer_paused and len(self._messages) <= self._msg_queue_resume_size:
            self._resume_reading_if_drained()

    async def _serve(self, message: RawRequestMessage | _ErrInfo, payload: StreamReader) -> bool:
        """Answer one request; whether the connection stays open."""
        manager = self._manager
        if manager is None:  # the client left
            return False
        handler = manager.request_handler
        if isinstance(message, _ErrInfo):
            handler, message = self._make_error_handler(message), ERROR
        writer = StreamWriter(self, self._loop)
        task = self._task_handler
        assert task is not None
        request = web.BaseRequest(message, payload, self, writer, task, self._loop)
        self._current_request = request
        try:
            response = await handler(request)
            if isinstance(response, Sent) and not self._upgraded:
                return response.keep_alive
            response, client_left = await self.finish_response(request, response, None)
        except ConnectionError:
            return False
        except Exception as error:
            return await self._fail(request, error)
        finally:
            self._current_request = None
        return not client_left and bool(response.keep_alive)

    async def _fail(self, request: web.BaseRequest, error: Exception) -> bool:
        """Tell the client of an error of the gateway's own, if it has nothing yet; the connection is closed."""
        with contextlib.suppress(ConnectionError):
            await self.finish_response(request, self.handle_error(request, 500, error), None)
        return False

    async def _drop(self, payload: StreamReader) -> None:
        """Read the rest of a body that was not wanted; close if it does not end."""
        try:
            async with asyncio.timeout(LINGER_SECONDS):
                while not payload.is_eof():
                    await payload.readany()
        except (TimeoutError, web.RequestPayloadError, ConnectionError):
            self.close()

    def _close_when_idle(self) -> None:
        close_time = self._loop.time() + self._keepalive_timeout
        self._next_keepalive_close_time = close_time
        if self._keepalive_handle is None:
            self._keepalive_handle = self._loop.call_at(close_time, self._process_keepalive)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if request._payload_writer.output_size > 0:
            raise ConnectionError("the response has begun; the connection is closed instead of sending a second one")
        if status == 500:
            self.logger.error("a request ended in an error of the gateway's own", exc_info=exc)
            message = "the gateway failed to handle the request"
        response = replies.error(status, message or "the request is not HTTP")
        response.force_close()
        return response


class Server(web.Server):
    """aiohttp's low-level server with our client connections. Called once a connection."""

    def __init__(
        self,
        handler: Callable[[web.BaseRequest], Any],
        *,
        idle_client_seconds: float,
        head_bytes: int = 64 << 10,
    ) -> None:
        super().__init__(handler, handler_cancellation=True)
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
            self,
            loop=asyncio.get_running_loop(),
            access_log=None,  # type: ignore[arg-type]  # None is how it is turned off
            auto_decompress=False,
            keepalive_timeout=self._idle_client_seconds,
            max_line_size=self._head_bytes,
            max_field_size=self._head_bytes,
            max_headers=256,
        )
