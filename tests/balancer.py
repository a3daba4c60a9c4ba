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

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        target = urlsplit(self.targets[next(self._turns) % len(self.targets)])
        there_reader, there_writer = await asyncio.open_connection(target.hostname, target.port)
        async with asyncio.TaskGroup() as group:
            group.create_task(_pass_on(reader, there_writer))
            group.create_task(_pass_on(there_reader, writer))


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    with contextlib.suppress(ConnectionError):
        writer.close()
        await writer.wait_closed()


@contextlib.asynccontextmanager
async def balancing(*targets: str) -> AsyncIterator[Balancer]:
    """A balancer before these, until the block ends."""
    balancer = Balancer(list(targets))
    server = await asyncio.start_server(balancer._carry, "127.0.0.1", 0)
    balancer.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        yield balancer
        server.close()
