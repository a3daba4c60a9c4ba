"""Does what faults say, to connections and to the process: raw bytes where HTTP would not allow it."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from typing import Any, Final, cast

from aiohttp import web

from dp_vllm.sim import errors
from dp_vllm.sim.errors import Refusal
from dp_vllm.sim.faults import Fault
from dp_vllm.sim.wire import Wire

_FLUSH_SECONDS: Final = 0.05
"""How long bytes written before a reset are given to leave."""
_OK: Final = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"


class Raw(web.StreamResponse):
    """Stands for an answer whose bytes, if any, were written past aiohttp, which is to add none."""

    async def prepare(self, request: web.BaseRequest) -> Any:
        return request._payload_writer

    async def write_eof(self, data: bytes = b"") -> None:
        self._eof_sent = True


async def strike_head(fault: Fault, request: web.BaseRequest) -> web.StreamResponse | None:
    """Break the answer before it begins; None if the real one is to follow. Raises Refusal for mere errors."""
    if fault.kind in ("hang-head", "die-at-request"):
        if fault.kind == "die-at-request":
            os.kill(os.getpid(), fault.signal_number)
        await asyncio.Event().wait()
    refusal = _refusal(fault)
    if refusal is not None:
        raise refusal
    _write(request, _broken(fault))
    if fault.kind == "interim":
        return None
    if fault.kind not in ("two-responses", "huge-header"):
        close(request)
    return Raw()


def _refusal(fault: Fault) -> Refusal | None:
    if fault.kind == "busy":
        return errors.busy()
    if fault.kind == "draining":
        return errors.draining()
    if fault.kind == "status":
        return Refusal(fault.status or 500, fault.message or "a simulated fault", "SimulatedFault")
    return None


def _broken(fault: Fault) -> bytes:
    """What is sent in place of an answer's head."""
    if fault.kind == "garbage":
        return b"\x16\x03\x01 this is not HTTP\r\n\r\n"
    if fault.kind == "two-responses":
        return _OK + b'content-length: 9\r\n\r\n{"one":1}' + _OK + b'content-length: 9\r\n\r\n{"two":2}'
    if fault.kind == "huge-header":
        return _OK + b"x-huge: " + b"a" * 10_000_000 + b"\r\ncontent-length: 2\r\n\r\n{}"
    if fault.kind == "wrong-length":
        return _OK + b'content-length: 1000\r\n\r\n{"half":'
    if fault.kind == "close-delimited":
        return _OK + b'connection: close\r\n\r\n{"half":'
    if fault.kind == "interim":
        return b"HTTP/1.1 103 Early Hints\r\nlink: </sim>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"
    return b""


async def strike_body(fault: Fault, request: web.BaseRequest, response: web.Response) -> web.StreamResponse:
    """Break an answer that is no stream: its head and half of its body come through."""
    body = cast(bytes, response.body)
    head = f"HTTP/1.1 {response.status} {response.reason}\r\ncontent-type: {response.content_type}\r\n"
    _write(request, f"{head}content-length: {len(body)}\r\n\r\n".encode() + body[: len(body) // 2])
    finish_soon(fault, request)
    await asyncio.Event().wait()
    return Raw()


def finish_soon(fault: Fault, request: web.BaseRequest) -> None:
    """After the last byte that comes through has left: what the fault says. The handler is cancelled by that."""
    if fault.kind == "hang-stream":
        return
    loop = asyncio.get_running_loop()
    if fault.kind == "die-mid-stream":
        loop.call_later(_FLUSH_SECONDS, os.kill, os.getpid(), fault.signal_number)
    else:
        loop.call_later(_FLUSH_SECONDS, reset if fault.kind == "reset" else close, request)


def cut(request: web.BaseRequest) -> web.StreamResponse:
    """End a stream before its end."""
    close(request)
    return Raw()


def close(request: web.BaseRequest) -> None:
    """End the connection once what was written has left."""
    if request.transport is not None:
        request.transport.close()


def reset(request: web.BaseRequest) -> None:
    """End the connection with an RST; on a unix socket, which has none, at once."""
    transport = request.transport
    if transport is None:
        return
    connection = transport.get_extra_info("socket")
    if connection.family in (socket.AF_INET, socket.AF_INET6):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def _write(request: web.BaseRequest, data: bytes) -> None:
    if data and request.transport is not None:
        request.transport.write(data)


class BrokenWire(Wire):
    """A stream that breaks after so many events, and then never ends by itself."""

    def __init__(self, request: web.BaseRequest, fault: Fault) -> None:
        super().__init__(request)
        self._fault = fault
        self._left = fault.after
        self._broken = False

    async def open(self, keep_alive_seconds: float = 0.0) -> None:
        await super().open(keep_alive_seconds)
        if not self._left:
            self._break(b"")

    def send(self, data: bytes) -> None:
        if self._broken:
            return
        if not self._left:
            self._break(data)
            return
        self._left -= 1
        super().send(data)

    async def close(self) -> web.StreamResponse:
        if self._broken:
            await asyncio.Event().wait()
        return await super().close()

    def _break(self, data: bytes) -> None:
        self._broken = True
        if self._fault.kind == "cut-chunked":
            _write(self._request, b"%x\r\n%b" % (len(data) + 100, data[: len(data) // 2]))
        finish_soon(self._fault, self._request)
