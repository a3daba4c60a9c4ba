"""One WebSocket between a client and a replica: messages, pings and the close pass through, both ways.

It ends when either side ends it, when a side answers no ping, when no message passes for a while, and when its messages
take more than its API key's share of the gateway's memory.

Of what aiohttp does not publish, it relies on `_post_start()`, which gives the reader what came with the handshake
(`_message_tail`), and on `_payload_parser`, the reader that is given all that comes later.
"""

import asyncio
import contextlib
import math
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import aiohttp
from aiohttp import WSMsgType, web
from aiohttp.http import WebSocketWriter

from dp_vllm_gateway.body import Bodies
from dp_vllm_gateway.call import Call
from dp_vllm_gateway.config import Limits
from dp_vllm_gateway.websocket_frames import Unfinished

MESSAGE_BYTES: Final = 16 << 20
"""Of one message from a client: what uvicorn takes, and so vLLM."""

PING_SECONDS: Final = 20.0
"""Between two pings, and how long either side may take to answer one; less if the idle limit is short."""

MESSAGES_AT_ONCE: Final = 16
"""Before others have a turn: a client can have tens of thousands of short ones on their way."""

CLOSE_SECONDS: Final = 1.0
"""How long either side may take to answer a close."""

GOING_AWAY: Final = 1001
BROKEN: Final = 1011
TRY_AGAIN_LATER: Final = 1013

Client = web.WebSocketResponse[bool]
Engine = aiohttp.ClientWebSocketResponse[bool]

_PING: Final = b"dp-vllm"
_MESSAGES: Final = frozenset({WSMsgType.TEXT, WSMsgType.BINARY})
_PASSED: Final = _MESSAGES | {WSMsgType.PING, WSMsgType.PONG}


class End(NamedTuple):
    """How a socket ends: the close frame of the side that ended it, or ours."""

    code: int
    reason: str = ""


class MeteredClient(web.WebSocketResponse[bool]):
    """The client's side; it reports all bytes that come before they are read."""

    def __init__(self, on_data: Callable[[bytes], None], **given: Any) -> None:
        super().__init__(**given)
        self._on_data = on_data

    def _post_start(self, request: web.BaseRequest, protocol: str | None, writer: WebSocketWriter) -> None:
        handler = request.protocol
        self._on_data(handler._message_tail)
        super()._post_start(request, protocol, writer)
        handler._payload_parser = _Tap(handler._payload_parser, self._on_data)


class _Tap:
    def __init__(self, reader: Any, on_data: Callable[[bytes], None]) -> None:
        self._reader = reader
        self._on_data = on_data
        self.feed_eof = reader.feed_eof

    def feed_data(self, data: bytes) -> Any:
        self._on_data(data)
        return self._reader.feed_data(data)


class _Side:
    def __init__(self, socket: Client | Engine) -> None:
        self.socket = socket
        self.silent_since = math.inf
        """Since when its next frame is waited for."""


class Session:
    """Owns what one WebSocket holds of the gateway's memory."""

    def __init__(self, limits: Limits, bodies: Bodies, call: Call) -> None:
        self._limits = limits
        self._bodies = bodies
        self._call = call
        self._loop = asyncio.get_running_loop()
        self._message_at = self._loop.time()
        """When the last message passed."""
        self._unfinished = Unfinished()
        self._counts = True
        self._too_much: asyncio.Future[End] = self._loop.create_future()

    def count(self, data: bytes) -> None:
        """Count what came from the client."""
        if not self._counts:
            return
        before = self._unfinished.size
        self._unfinished.feed(data)
        self._bodies.take(self._unfinished.size - before, self._call.key)
        size = self._unfinished.size
        if size > before and not self._bodies.has_room(size, self._call.key) and not self._too_much.done():
            self._too_much.set_result(End(TRY_AGAIN_LATER, "the gateway has no room for this message"))

    def stop(self) -> None:
        """Count nothing any longer."""
        self._counts = False
        self._bodies.give_back(self._unfinished.size, self._call.key)

    async def join(self, client: Client, engine: Engine, stopped: asyncio.Future[End]) -> End:
        """Pass messages until one side ends it, or the gateway does; how it ended."""
        sides = _Side(client), _Side(engine)
        async with asyncio.TaskGroup() as group:
            up = group.create_task(self._pump(*sides, None))
            down = group.create_task(self._pump(sides[1], sides[0], self._call))
            watch = group.create_task(self._watch(*sides))
            waited = (down, up, watch, self._too_much, stopped)
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            tasks = (down, up, watch)
            ends = [future.result() for future in (stopped, self._too_much, watch) if future.done()]
            if not ends and down.done():
                ends.append(down.result() or End(BROKEN, "the replica failed"))
            for task in tasks:
                task.cancel()
        return ends[0] if ends else up.result() or End(GOING_AWAY)

    async def _pump(self, source: _Side, target: _Side, call: Call | None) -> End | None:
        """Pass on what `source` sends; how it ended, None if it was gone without a close."""
        count = 0
        while True:
            count += 1
            if not count % MESSAGES_AT_ONCE:
                await asyncio.sleep(0)  # what has come already is received and sent without waiting
            source.silent_since = self._loop.time()
            message = await source.socket.receive()
            if message.type in _PASSED:
                source.silent_since = math.inf
                if message.type in _MESSAGES:
                    self._message_at = self._loop.time()
                elif message.type is WSMsgType.PONG and message.data == _PING:
                    continue
                if not await self._send(target, message.type, message.data):
                    return End(BROKEN, "the other side does not take what is sent")
                if call is not None:
                    call.chunks += 1
            elif message.type is WSMsgType.CLOSE:
                return End(message.data or aiohttp.WSCloseCode.OK, message.extra or "")
            elif isinstance(message.data, aiohttp.WebSocketError):
                return End(message.data.code, str(message.data))
            else:
                return None

    async def _send(self, target: _Side, kind: WSMsgType, data: bytes) -> bool:
        """Whether the target took it in time."""
        self._bodies.take(len(data), self._call.key)
        try:
            async with asyncio.timeout(self._limits.write_seconds):
                await target.socket.send_frame(data, kind)
        except (ConnectionError, TimeoutError):
            return False
        finally:
            self._bodies.give_back(len(data), self._call.key)
        return True

    async def _watch(self, client: _Side, engine: _Side) -> End:
        """Return when nothing passes any longer, or when a side answers no ping."""
        idle = self._limits.websocket_idle_seconds
        every = min(PING_SECONDS, idle / 4)
        while True:
            await asyncio.sleep(every)
            now = self._loop.time()
            if now - self._message_at >= idle:
                return End(GOING_AWAY, f"no message for {idle:g} s")
            if now - client.silent_since >= 2 * every:
                return End(GOING_AWAY, "the client answers no ping")
            if now - engine.silent_since >= 2 * every:
                return End(BROKEN, "the replica answers no ping")
            for side in (client, engine):
                with contextlib.suppress(ConnectionError, TimeoutError):
                    async with asyncio.timeout(every):
                        await side.socket.send_frame(_PING, WSMsgType.PING)


async def closed(socket: Client | Engine, end: End) -> bool:
    """Close one side; False if it does not even take the close."""
    try:
        async with asyncio.timeout(2 * CLOSE_SECONDS):
            await socket.close(code=end.code, message=end.reason.encode()[:123])
    except TimeoutError:
        return False
    return True
