"""The client of the routing benchmark: it sends each request when it is due and notes when its answer begins and ends.

As in `load`, bytes are recognised, not parsed: an answer begins with the first event of its body, for heads (and their
comments) are sent long before the first token, and it is whole if it ends with `[DONE]`.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, cast

from bench.load import Address
from bench.pace import Alarm
from bench.routing_prompt import Prompts
from dp_vllm.replay.trace import Request

LAST_SECONDS: Final = 120.0
"""How long after the last request was due the last answer may end."""

_FAR: Final = 3600.0

_EVENT: Final = b"data: {"
_ERROR: Final = b'data: {"error"'
_DONE: Final = b"data: [DONE]"
_END: Final = b"\r\n0\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one request, in seconds of this machine's clock after it was due."""

    sent_seconds: float
    """How late the client was itself."""
    first_seconds: float
    total_seconds: float
    failure: str = ""
    """Why there is no whole answer; the times mean nothing then."""


class Stream(asyncio.Protocol):
    """One connection, for one request after the other."""

    def __init__(self, idle: "Callable[[Stream], object]") -> None:
        self._idle = idle
        self._tail = b""
        self._first_at = 0.0
        self._ended: asyncio.Future[Answer] | None = None
        self.open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transports are none of its classes
        self.open = True

    def send(self, request: bytes, due: float, ended: asyncio.Future[Answer]) -> None:
        """Send it; `ended` becomes its answer."""
        self._tail, self._first_at = b"", 0.0
        self._due, self._ended = due, ended
        self._sent_at = time.monotonic()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        if self._ended is None:
            return
        if not self._first_at:
            data = self._tail + data
            if not data.startswith(b"HTTP/1.1 200"):
                self._fail(repr(data[:200]))
                return
            if _EVENT not in data:
                self._tail = data
                return
            self._first_at = time.monotonic()
        if _ERROR in data:
            self._fail(repr(data[-200:]))
            return
        self._tail = (self._tail + data[-64:])[-64:]
        if self._tail.endswith(_END):
            self._complete()
            if self.open:
                self._idle(self)

    def connection_lost(self, error: Exception | None) -> None:
        self.open = False
        if self._ended is not None:
            self._complete()

    def _complete(self) -> None:
        if _DONE in self._tail:
            self._end("")
        else:
            self._fail("the answer ended before its end")

    def _fail(self, why: str) -> None:
        self._end(why)
        self.open = False
        self._transport.close()

    def _end(self, failure: str) -> None:
        ended, self._ended = self._ended, None
        if ended is not None and not ended.done():
            sent, first, now = self._sent_at - self._due, self._first_at - self._due, time.monotonic() - self._due
            ended.set_result(Answer(sent, first, now, failure))

    def close(self) -> None:
        self._ended = None
        self._transport.close()


class Replay:
    """A trace on its way: sends what is due, over connections that are used again."""

    def __init__(self, address: Address, requests: list[Request], prompts: Prompts, speed: float) -> None:
        self._address = address
        self._requests = requests
        self._prompts = prompts
        self._speed = speed
        self._loop = asyncio.get_running_loop()
        self._all: list[Stream] = []
        self._idle: list[Stream] = []
        self._opening: set[asyncio.Task[None]] = set()
        self._began: float | None = None
        self._next = 0
        self._answers: list[asyncio.Future[Answer]] = [self._loop.create_future() for _ in requests]

    async def run(self) -> list[Answer]:
        """The answers in the order of the requests."""
        last = self._requests[-1].at_seconds / self._speed
        try:
            with Alarm(self._send_due) as alarm:
                await asyncio.wait(self._answers, timeout=last + LAST_SECONDS)
                alarm.check()
        finally:
            for stream in self._all:
                stream.close()
        missing = Answer(0.0, 0.0, 0.0, f"no end within {LAST_SECONDS:g} s")
        return [future.result() if future.done() else missing for future in self._answers]

    def _send_due(self, moment: float) -> float:
        """Send what is due at this moment; when the next one is."""
        began = self._began = moment if self._began is None else self._began
        while self._next < len(self._requests):
            due = began + self._requests[self._next].at_seconds / self._speed
            if due > moment:
                return due
            self._send(self._next, due)
            self._next += 1
        return moment + _FAR

    def _send(self, number: int, due: float) -> None:
        request = self._prompts.chat(self._requests[number])
        while self._idle:
            stream = self._idle.pop()
            if stream.open:
                stream.send(request, due, self._answers[number])
                return
        task = self._loop.create_task(self._open_and_send(request, due, self._answers[number]))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _open_and_send(self, request: bytes, due: float, ended: asyncio.Future[Answer]) -> None:
        try:
            _, stream = await self._loop.create_connection(
                lambda: Stream(self._idle.append), self._address.host, self._address.port
            )
        except OSError as error:
            ended.set_result(Answer(0.0, 0.0, 0.0, str(error)))
            return
        self._all.append(stream)
        stream.send(request, due, ended)


async def replay(address: Address, requests: list[Request], prompts: Prompts, speed: float) -> list[Answer]:
    """Send each request when it is due, `speed` times faster than in the trace, and wait for all answers."""
    return await Replay(address, requests, prompts, speed).run()
