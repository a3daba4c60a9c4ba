"""Gathers what clients are sent within one turn of the event loop, and writes it at the turn's end.

Engines send the next token of all their streams together. If each were written as soon as it is read, each would wake a
client that has just gone to sleep again; so the first wakes it and the others find it awake.
"""

import asyncio
from typing import Any, Final

LARGE_BYTES: Final = 16 << 10
"""A piece of this size is written at once: it is not one of many, and its client may have to be waited for."""


class Outbox:
    """Owns what is to be written. One for all clients of a process; to be made within a running event loop."""

    __slots__ = ("_loop", "_waiting")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: list[tuple[Any, bytes]] = []

    def send(self, client: Any, data: bytes) -> None:
        """Write it to `client.transport` soon, unless that is gone by then. Pieces stay in order."""
        waiting = self._waiting
        if not waiting:
            self._loop.call_soon(self.flush)
        waiting.append((client, data))
        if len(data) >= LARGE_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write all of it now."""
        waiting, self._waiting = self._waiting, []
        for client, data in waiting:
            transport = client.transport
            if transport is not None:
                transport.write(data)
