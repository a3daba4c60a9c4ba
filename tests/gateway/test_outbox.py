"""What clients are sent within one turn of the event loop is written at its end, and in order."""

import asyncio
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from dp_vllm_gateway.outbox import LARGE_BYTES, Outbox


@dataclass
class Client:
    """A client's connection as an outbox sees it, and its other end."""

    transport: asyncio.Transport | None
    end: socket.socket

    def read(self) -> bytes:
        """What has been written to it by now."""
        try:
            return self.end.recv(1 << 20)
        except BlockingIOError:
            return b""


@pytest.fixture
async def clients() -> AsyncIterator[tuple[Client, Client]]:
    made = []
    for _ in range(2):
        ours, end = socket.socketpair()
        end.setblocking(False)
        transport, _protocol = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=ours)
        made.append((transport, end))
    (a, a_end), (b, b_end) = made
    yield Client(a, a_end), Client(b, b_end)
    for transport, end in made:
        transport.abort()
        end.close()


async def test_pieces_are_written_once_the_turn_is_over_and_in_order(clients: tuple[Client, Client]) -> None:
    outbox, (a, b) = Outbox(), clients
    for number, client in enumerate((a, b, a)):
        outbox.send(client, b"%d" % number)
    assert (a.read(), b.read()) == (b"", b"")
    await asyncio.sleep(0)
    assert (a.read(), b.read()) == (b"02", b"1")
    outbox.send(b, b"3")
    await asyncio.sleep(0)
    assert (a.read(), b.read()) == (b"", b"3")


async def test_a_large_piece_is_written_at_once_but_not_before_what_came_first(clients: tuple[Client, Client]) -> None:
    outbox, (a, _) = Outbox(), clients
    outbox.send(a, b"small")
    outbox.send(a, b"x" * LARGE_BYTES)
    assert a.read() == b"small" + b"x" * LARGE_BYTES
    await asyncio.sleep(0)
    assert a.read() == b"", "nothing twice"


async def test_what_a_client_that_has_gone_was_to_be_sent_is_dropped(clients: tuple[Client, Client]) -> None:
    outbox, (a, b) = Outbox(), clients
    outbox.send(a, b"lost")
    outbox.send(b, b"kept")
    a.transport = None
    outbox.flush()
    assert (a.read(), b.read()) == (b"", b"kept")


async def test_a_client_whose_connection_ends_this_moment_keeps_nothing_from_the_others(
    clients: tuple[Client, Client],
) -> None:
    outbox, (a, b) = Outbox(), clients
    assert a.transport is not None
    outbox.send(a, b"lost")
    outbox.send(b, b"kept")
    a.transport.abort()
    outbox.flush()
    assert b.read() == b"kept"
