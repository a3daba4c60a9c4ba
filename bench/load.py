"""The clients of a benchmark: they send bytes that were made beforehand and recognise an answer's end, no more.

A client that parsed HTTP would cost more than the gateways it is to load. So what it relies on is stated here: requests
of one connection follow one another, answers are those of `answers`, and framing is HTTP/1.1's.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Final, cast

from bench import answers

API_KEY: Final = "token-abc123"

_OPENAI_HEADERS: Final = """\
Accept-Encoding: gzip, deflate
Connection: keep-alive
accept: application/json
user-agent: OpenAI/Python 3.52.0
x-stainless-lang: python
x-stainless-package-version: 3.52.0
x-stainless-os: Linux
x-stainless-arch: x64
x-stainless-runtime: CPython
x-stainless-runtime-version: 3.11.7
x-stainless-async: false
x-stainless-retry-count: 0
x-stainless-read-timeout: 600
"""
"""What the official client sends along with every request."""

_WHOLE_END: Final = b'"kv_transfer_params":null}'
_CHUNKED_END: Final = b"\r\n0\r\n\r\n"


OPENED_TOGETHER: Final = 50
"""Streams that are begun at once; one by one takes long while those before it already flow."""


class Failed(Exception):
    """An answer was not what the engine sends; the message shows it."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a gateway (or an engine) listens."""

    host: str
    port: int


def chat(prompt_bytes: int, *, stream: bool = False, max_tokens: int = 8, openai: bool = True) -> bytes:
    """A chat request whose one message is `prompt_bytes` long."""
    words = "What does the gateway add to this? "
    prompt = (words * (prompt_bytes // len(words) + 1))[:prompt_bytes]
    body = {"messages": [{"role": "user", "content": prompt}], "model": answers.MODEL, "max_tokens": max_tokens}
    content = json.dumps(body | ({"stream": True} if stream else {}), separators=(",", ":")).encode()
    more = _OPENAI_HEADERS if openai else ""
    head = f"POST /v1/chat/completions HTTP/1.1\nHost: 127.0.0.1:8000\n{more}authorization: Bearer {API_KEY}\n"
    head += f"content-type: application/json\nContent-Length: {len(content)}\n\n"
    return head.replace("\n", "\r\n").encode() + content


class Caller(asyncio.Protocol):
    """One connection that sends the same request whenever it is told to, and tells when the answer is complete."""

    def __init__(self, request: bytes, completed: "Callable[[Caller], object]") -> None:
        self._request = request
        self._completed = completed
        self._buffer = b""
        self._end = b""
        self.sent_at = 0.0
        """For whoever paces requests; not set here."""
        self.failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transports are none of its classes

    def send(self) -> None:
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if self._buffer:
            data = self._buffer + data
        if not data.startswith(b"HTTP/1.1 200"):
            self._fail(data)
        elif data.endswith(self._end or self._learn_end(data)):
            self._buffer = b""
            self._completed(self)
        else:
            self._buffer = data

    def _learn_end(self, data: bytes) -> bytes:
        """How an answer ends here: it depends on whether the gateway frames it anew."""
        head = data.partition(b"\r\n\r\n")[0].lower()
        self._end = _CHUNKED_END if b"\r\ntransfer-encoding: chunked" in head else _WHOLE_END
        return self._end

    def connection_lost(self, error: Exception | None) -> None:
        self._fail(b"the connection was closed")

    def _fail(self, data: bytes) -> None:
        if not self.failure.done():
            self.failure.set_exception(Failed(repr(data[:400])))

    def close(self) -> None:
        self.failure.cancel()
        self._transport.close()


class Reader(asyncio.Protocol):
    """One stream: counts its chunks."""

    def __init__(self, request: bytes) -> None:
        loop = asyncio.get_running_loop()
        self._request = request
        self._tail = b""
        """The last bytes: what ends a stream may come in several pieces."""
        self.chunks = 0
        self.begun: asyncio.Future[bool] = loop.create_future()
        self.ended: asyncio.Future[bool] = loop.create_future()
        """Whether the stream ended as it should: with its last event."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transports are none of its classes
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self.chunks += data.count(answers.MARK)
        self._tail = (self._tail + data[-64:])[-64:]
        if self._tail.endswith(_CHUNKED_END) and not self.ended.done():
            self.ended.set_result(answers.DONE in self._tail)
        if not self.begun.done():
            self.begun.set_result(True)
            if not data.startswith(b"HTTP/1.1 200"):
                self.ended.set_result(False)

    def connection_lost(self, error: Exception | None) -> None:
        for future in (self.begun, self.ended):
            if not future.done():
                future.set_result(False)

    def close(self) -> None:
        self._transport.close()


@contextlib.asynccontextmanager
async def callers(
    address: Address, request: bytes, count: int, completed: Callable[[Caller], object]
) -> AsyncIterator[list[Caller]]:
    """Open connections, without sending anything on them."""
    loop = asyncio.get_running_loop()
    opened: list[Caller] = []
    try:
        for _ in range(count):
            _, caller = await loop.create_connection(lambda: Caller(request, completed), address.host, address.port)
            opened.append(caller)
        yield opened
    finally:
        for caller in opened:
            caller.close()


@contextlib.asynccontextmanager
async def readers(address: Address, request: bytes, count: int) -> AsyncIterator[list[Reader]]:
    """Open streams, and enter the block once each has begun to be answered."""
    loop = asyncio.get_running_loop()
    opened: list[Reader] = []
    try:
        for begun in range(0, count, OPENED_TOGETHER):
            together = range(begun, min(count, begun + OPENED_TOGETHER))
            opening = (loop.create_connection(lambda: Reader(request), address.host, address.port) for _ in together)
            opened += [reader for _, reader in await asyncio.gather(*opening)]
        async with asyncio.timeout(30):
            await asyncio.gather(*(reader.begun for reader in opened))
        yield opened
    finally:
        for reader in opened:
            reader.close()


async def one_answer(address: Address, request: bytes) -> None:
    """Send one request and wait for its answer; raises Failed or OSError."""
    done = asyncio.get_running_loop().create_future()
    async with callers(address, request, 1, lambda _: done.set_result(None)) as (caller,), asyncio.timeout(5):
        caller.send()
        await asyncio.wait({done, caller.failure}, return_when=asyncio.FIRST_COMPLETED)
        if caller.failure.done():
            caller.failure.result()


async def many_answers(address: Address, request: bytes, count: int, connections: int, seconds: float) -> None:
    """Send so many requests over kept connections, each as soon as the one before it is answered, within some time."""
    left = count
    answered = 0
    all_answered = asyncio.get_running_loop().create_future()

    def completed(caller: Caller) -> None:
        nonlocal left, answered
        answered += 1
        if left:
            left -= 1
            caller.send()
        elif answered == count:
            all_answered.set_result(None)

    async with callers(address, request, min(connections, count), completed) as opened, asyncio.timeout(seconds):
        left -= len(opened)
        for caller in opened:
            caller.send()
        failures = [caller.failure for caller in opened]
        await asyncio.wait({all_answered, *failures}, return_when=asyncio.FIRST_COMPLETED)
        for failure in failures:
            if failure.done():
                failure.result()
