"""One connection to another gateway. It is read and written when it is told to; nothing here waits."""

import asyncio
import socket
from collections.abc import Callable
from typing import Final

from dp_vllm_gateway.peers.frames import GREETING, Frames, framed
from dp_vllm_gateway.workers import news
from dp_vllm_gateway.workers.errors import MessageErrors
from dp_vllm_gateway.workers.news import News

READ_BYTES: Final = 1 << 18
"""At once, before others have their turn."""


class Stream:
    """Owns a connected socket. What is sent is taken as a whole or not at all."""

    def __init__(
        self,
        number: int,
        address: str,
        sock: socket.socket,
        errors: MessageErrors,
        *,
        on_readable: Callable[["Stream"], None],
        on_end: Callable[["Stream", str], None],
    ) -> None:
        """`on_end` is called once, with why the stream has ended."""
        self.number = number
        self.address = address
        self._socket = sock
        self._errors = errors
        self._on_readable = on_readable
        self._on_end = on_end
        self._frames = Frames()
        self._parts = news.Parts()
        self._unsent = b""
        self._loop = asyncio.get_running_loop()
        self.began_at = self.heard_at = self._loop.time()
        self._open = True

    def begin(self) -> None:
        """Greet the other end, and say from now on when there is something to read."""
        self._socket.setblocking(False)
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            self.end(str(error))
            return
        self._loop.add_reader(self._socket, self._on_readable, self)
        self._write(GREETING)

    @property
    def speaks(self) -> bool:
        """Whether the other end speaks our language."""
        return self._open and self._frames.greeted

    def send(self, data: bytes) -> bool:
        """False if what was sent before is not out yet, or the stream has ended."""
        if self._unsent or not self._open:
            return False
        self._write(framed(data))
        return True

    def read(self) -> list[News]:
        """The news that have come."""
        if not self._open:
            return []
        try:
            data = self._socket.recv(READ_BYTES)
        except BlockingIOError:
            return []
        except OSError as error:
            self.end(str(error))
            return []
        if not data:
            self.end("it has closed the connection")
            return []
        self.heard_at = self._loop.time()
        try:
            frames = self._frames.take(data)
            return [news.read_foreign(frame, self.number, self._parts) for frame in frames]
        except ValueError as error:
            self._errors.add("read", error)
            self.end(f"what it says is not understood: {error}")
            return []

    def end(self, why: str) -> None:
        """Close the connection."""
        if not self._open:
            return
        self._open = False
        self._unsent = b""
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        self._socket.close()
        self._on_end(self, why)

    def _write(self, data: bytes) -> None:
        try:
            sent = self._socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self.end(str(error))
            return
        self._unsent = data[sent:]
        if self._unsent:
            self._loop.add_writer(self._socket, self._go_on)

    def _go_on(self) -> None:
        self._loop.remove_writer(self._socket)
        self._write(self._unsent)
