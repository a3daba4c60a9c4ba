"""What the nodes of a run tell each other, each over one connection with the first: a JSON object a line."""

import asyncio
import socket
from typing import Final

import msgspec

from dp_vllm.endpoints import Endpoint
from dp_vllm.local.crew import Outlook, Sight

LINE_BYTES: Final = 1 << 20

_IDLE_SECONDS: Final = 10
_BETWEEN_SECONDS: Final = 5
_PROBES: Final = 4
"""A machine that vanishes without a word is gone after about half a minute."""


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    """From a node: who it is, that it belongs to the run, and what it has room for."""

    secret: str
    node: str
    gpus: int | None
    fits: int | None


class Share(msgspec.Struct, frozen=True, tag="share"):
    """To a node: which replicas are its own."""

    first: int
    count: int
    port: int
    """Where the endpoint is, on the first node."""


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """To a node: nothing will be served."""

    why: str


class Report(msgspec.Struct, frozen=True, tag="report"):
    """From a node: how its replicas are, with addresses that other nodes reach."""

    endpoints: tuple[Endpoint, ...]
    outlook: Outlook


class End(msgspec.Struct, frozen=True, tag="end"):
    """To a node: everything ends, what is in flight has so long."""

    seconds: float


Message = Hello | Share | Refused | Report | Sight | End

_DECODER: Final = msgspec.json.Decoder(Message)


class Line:
    """One end of such a connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        _keep_alive(writer.get_extra_info("socket"))

    @property
    def own_host(self) -> str:
        """This machine's address, as the other one reaches it."""
        return str(self._writer.get_extra_info("sockname")[0])

    def send(self, message: Message) -> None:
        """Small, and rarely: nobody waits until it is there."""
        if not self._writer.is_closing():
            self._writer.write(msgspec.json.encode(message) + b"\n")

    async def receive(self) -> Message | None:
        """The next one; None at the end, and after what is none."""
        try:
            line = await self._reader.readline()
            return _DECODER.decode(line) if line.endswith(b"\n") else None
        except (OSError, ValueError):
            return None

    async def close(self) -> None:
        """Say what is still to be said, and end."""
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except OSError:
            return


def _keep_alive(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _IDLE_SECONDS)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _BETWEEN_SECONDS)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _PROBES)
