"""A node's doors: `python -m dp_vllm.local.slurm.door --secret-file PATH --door FD=unix:/PATH ...`

Engines listen on unix sockets, which other nodes cannot reach. Each has a TCP port here that passes bytes on to it
and back, and changes none: a gateway on another node sees the engine itself, its end and its broken streams too. The
first request on a connection must have the run's secret as its key; whoever has shown it keeps the connection.

It must not know what HTTP says beyond that head.
"""

import asyncio
import hmac
import signal
import socket
import sys
from pathlib import Path
from typing import Final, cast

import click

from dp_vllm.errors import UserError

try:
    import uvloop
except ImportError:  # not on this platform
    uvloop = None  # type: ignore[assignment]

HEAD_BYTES: Final = 256 << 10
"""How long a request's head may be; vLLM itself takes less."""

LOOK_SECONDS: Final = 0.1
"""How often it is looked at the end whether anybody is inside."""

HEAD_SECONDS: Final = 10.0
"""How long a connection may take to show the secret."""

_REFUSED: Final = b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b"


def refusal(status: bytes, message: str) -> bytes:
    body = b'{"error": {"message": "%b"}}' % message.encode()
    return _REFUSED % (status, len(body), body)


_UNAUTHORIZED: Final = refusal(b"401 Unauthorized", "this port is for the run's own gateway")
_UNAVAILABLE: Final = refusal(b"503 Service Unavailable", "the engine does not listen")


class Side(asyncio.Protocol):
    """One of the two connections that a door joins: what it reads the other one writes."""

    transport: asyncio.Transport
    other: "Side | None" = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by its class

    def data_received(self, data: bytes) -> None:
        if self.other is not None:
            self.other.transport.write(data)

    def connection_lost(self, error: Exception | None) -> None:
        if self.other is not None:
            self.other.transport.close()

    def pause_writing(self) -> None:
        if self.other is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None:
            self.other.transport.resume_reading()


class Visitor(Side):
    """The connection from outside, which has to show the secret first."""

    def __init__(self, secret: bytes, engine: str, tasks: set[asyncio.Task[None]], inside: "set[Visitor]") -> None:
        self._wanted = b"Bearer " + secret
        self._engine = engine
        self._tasks = tasks
        """Those that connect to engines: the loop alone would forget them."""
        self._inside = inside
        """Those that an engine may be answering."""
        self._head = bytearray()
        self._known = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._limit = asyncio.get_running_loop().call_later(HEAD_SECONDS, self._give_up)

    def data_received(self, data: bytes) -> None:
        if self.other is not None:
            self.other.transport.write(data)
            return
        self._head += data
        if self._known:
            return  # it comes with what is being kept for the engine
        end = self._head.find(b"\r\n\r\n")
        if end < 0 and len(self._head) <= HEAD_BYTES:
            return
        self._limit.cancel()
        if end < 0 or not shows(bytes(self._head[:end]), self._wanted):
            self._refuse(_UNAUTHORIZED)
            return
        self._known = True
        self.transport.pause_reading()
        task = asyncio.get_running_loop().create_task(self._enter())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def connection_lost(self, error: Exception | None) -> None:
        self._limit.cancel()
        self._inside.discard(self)
        super().connection_lost(error)

    async def _enter(self) -> None:
        try:
            _, engine = await asyncio.get_running_loop().create_unix_connection(Side, self._engine)
        except OSError:
            self._refuse(_UNAVAILABLE)
            return
        if self.transport.is_closing():
            engine.transport.close()
            return
        engine.other, self.other = self, engine
        self._inside.add(self)
        engine.transport.write(bytes(self._head))
        self._head.clear()
        self.transport.resume_reading()

    def _refuse(self, answer: bytes) -> None:
        self.transport.write(answer)
        self.transport.close()

    def _give_up(self) -> None:
        self.transport.abort()


def shows(head: bytes, wanted: bytes) -> bool:
    """Whether a request's head has this `Authorization`."""
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"authorization":
            return hmac.compare_digest(value.strip(), wanted)
    return False


async def serve(secret: bytes, doors: tuple[tuple[int, str], ...]) -> None:
    """Keep the doors open until SIGTERM, and then as long as anybody is inside: answers pass through them."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    tasks: set[asyncio.Task[None]] = set()
    inside: set[Visitor] = set()
    for fd, engine in doors:
        # The engine's path is bound now: each door has its own.
        await loop.create_server(
            lambda engine=engine: Visitor(secret, engine, tasks, inside),  # type: ignore[misc]
            sock=socket.socket(fileno=fd),
        )
    await ended.wait()
    while inside:  # noqa: ASYNC110 - once, at the end
        await asyncio.sleep(LOOK_SECONDS)


def _door(word: str) -> tuple[int, str]:
    fd, _, engine = word.partition("=unix:")
    if not fd.isdigit() or not engine:
        raise click.BadParameter(f"{word!r} is not FD=unix:/PATH")
    return int(fd), engine


@click.command()
@click.option("--secret-file", type=click.Path(path_type=Path), required=True, help="Holds the run's secret.")
@click.option("--door", "doors", multiple=True, required=True, metavar="FD=unix:/PATH", help="A socket, an engine's.")
def main(secret_file: Path, doors: tuple[str, ...]) -> None:
    """Let the run's own gateway on another node reach this node's engines."""
    secret = secret_file.read_bytes().strip()
    if not secret:
        raise UserError(f"--secret-file: {secret_file} is empty")
    serving = serve(secret, tuple(map(_door, doors)))
    if uvloop is None:
        asyncio.run(serving)
    else:
        uvloop.run(serving)


if __name__ == "__main__":
    sys.exit(main(prog_name="dp-vllm door"))
