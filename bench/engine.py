"""Four engines in one process that cost next to nothing, so that a benchmark of gateways measures gateways.

    python bench/engine.py --port 8101 --port 8102 --uds /tmp/0.sock --interval-seconds 0.02

Answers have the bytes of a real vLLM's, but are made beforehand: nothing is generated, counted or checked, and a
request is read only as far as its answer depends on it. A stream gets one chunk in every interval; the streams' turns
are spread over the interval, a millisecond each. It is not the simulated engine, which knows what a model does.
"""

import argparse
import asyncio
import gc
import itertools
import re
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, cast

import uvloop

from bench import answers

TICK_SECONDS: Final = 0.001
"""How finely the streams' turns are spread; uvloop's timers are no finer."""

_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_MAX_TOKENS: Final = re.compile(rb'"max_(?:completion_)?tokens": *(\d+)')
_STREAM: Final = re.compile(rb'"stream": *true')


class Stream:
    """One answer under way."""

    __slots__ = ("left", "transport")

    def __init__(self, transport: asyncio.Transport, tokens: int) -> None:
        self.transport = transport
        self.left = tokens
        """Chunks that are still to be written, this turn's included."""


class Turns:
    """Gives every stream its chunk once an interval. The one owner of the streams."""

    def __init__(self, interval_seconds: float) -> None:
        self._slots: list[list[Stream]] = [[] for _ in range(max(1, round(interval_seconds / TICK_SECONDS)))]
        self._next_slot = itertools.cycle(range(len(self._slots)))

    def begin(self, transport: asyncio.Transport, tokens: int) -> None:
        transport.write(answers.STREAM_HEAD)
        self._slots[next(self._next_slot)].append(Stream(transport, tokens))

    async def run(self) -> None:
        """Take turns for ever; a tick that came late is made up for."""
        start, taken = time.monotonic(), 0
        while True:
            due = int((time.monotonic() - start) / TICK_SECONDS)
            for tick in range(taken, due):
                self._take(tick % len(self._slots))
            taken = max(taken, due)
            await asyncio.sleep(TICK_SECONDS)

    def _take(self, slot: int) -> None:
        self._slots[slot] = [stream for stream in self._slots[slot] if self._write(stream)]

    def _write(self, stream: Stream) -> bool:
        """Write one chunk; False if it was the last, or nobody reads any more."""
        if stream.transport.is_closing():
            return False
        stream.left -= 1
        stream.transport.write(answers.CHUNK if stream.left else answers.LAST_CHUNK)
        return stream.left > 0


class Connection(asyncio.Protocol):
    """Reads requests with a Content-Length, one after the other."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._buffer = b""
        self._wanted = 0
        """Bytes of the request that is being read, head and body; 0 before its head is complete."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transports are none of its classes

    def data_received(self, data: bytes) -> None:
        self._buffer = self._buffer + data if self._buffer else data
        if not self._wanted:
            head = self._buffer.find(b"\r\n\r\n")
            if head < 0:
                return
            length = _LENGTH.search(self._buffer, 0, head)
            self._wanted = head + 4 + (int(length[1]) if length else 0)
        if len(self._buffer) >= self._wanted:
            request, self._buffer, self._wanted = self._buffer, self._buffer[self._wanted :], 0
            self._answer(request)

    def _answer(self, request: bytes) -> None:
        words = request[: request.find(b"\r\n")].split(b" ")
        if words[-1] != b"HTTP/1.1":  # a router asking whether this is gRPC
            self._transport.close()
            return
        path = words[1].partition(b"?")[0]
        if path in answers.STREAMED and _STREAM.search(request):
            tokens = _MAX_TOKENS.search(request)
            self._turns.begin(self._transport, int(tokens[1]) if tokens else 16)
        elif path == b"/tokenize":
            self._transport.write(answers.tokenized(len(request)))
        else:
            self._transport.write(answers.WHOLE.get(path, answers.NOT_FOUND))


def listening(hosts: list[str], ports: list[int], paths: list[Path]) -> Iterator[socket.socket]:
    """Listening sockets on the ports of each address and on unix sockets."""
    for address in itertools.product(hosts, ports):
        yield socket.create_server(address, backlog=4096)
    for path in paths:
        unix = socket.socket(socket.AF_UNIX)
        unix.bind(str(path))
        unix.listen(4096)
        yield unix


async def serve(hosts: list[str], ports: list[int], paths: list[Path], interval_seconds: float) -> None:
    """Answer until cancelled."""
    loop = asyncio.get_running_loop()
    turns = Turns(interval_seconds)
    for sock in listening(hosts, ports, paths):
        await loop.create_server(lambda: Connection(turns), sock=sock)
    gc.disable()  # nothing here makes cycles that matter within a benchmark's time
    await turns.run()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", action="append", help="default: 127.0.0.1")
    parser.add_argument("--port", type=int, action="append", default=[])
    parser.add_argument("--uds", type=Path, action="append", default=[])
    parser.add_argument("--interval-seconds", type=float, default=0.02, help="between two chunks of a stream")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    uvloop.run(serve(given.host or ["127.0.0.1"], given.port, given.uds, given.interval_seconds))


if __name__ == "__main__":
    main()
