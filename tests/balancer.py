"""Stands for a Service: each new connection goes to one of the targets, and those that are open stay where they are."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit


@dataclass(slots=True)
class Balancer:
    """A TCP proxy on a port of the loopback address. `targets` may be changed at any time."""

    targets: list[str]
    url: str = ""
    _turns: "itertools.count[int]" = field(default_factory=itertools.count)
    _connections: set[asyncio.Task[None]] = field(default_factory=set)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        carried = asyncio.create_task(self._carry(reader, writer))
        self._connections.add(carried)
        carried.add_done_callback(self._connections.discard)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        target = urlsplit(self.targets[next(self._turns) % len(self.targets)])
        async with _closed(writer):
            there_reader, there_writer = await asyncio.open_connection(target.hostname, target.port)
            async with _closed(there_writer), asyncio.TaskGroup() as group:
                group.create_task(_pass_on(reader, there_writer))
                group.create_task(_pass_on(there_reader, writer))

    async def _end(self) -> None:
        """Cut what is open: a loop that ends before its connections leaves them open."""
        connections = list(self._connections)
        for carried in connections:
            carried.cancel()
        await asyncio.gather(*connections, return_exceptions=True)


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()


@contextlib.asynccontextmanager
async def _closed(writer: asyncio.StreamWriter) -> AsyncIterator[None]:
    try:
        yield
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


@contextlib.asynccontextmanager
async def balancing(*targets: str) -> AsyncIterator[Balancer]:
    """A balancer before these, until the block ends."""
    balancer = Balancer(list(targets))
    async with await asyncio.start_server(balancer._accept, "127.0.0.1", 0) as server:
        balancer.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield balancer
        finally:
            server.close()
            await balancer._end()
