"""What clients are sent within one turn of the event loop is written at its end, and in order."""

import asyncio
from dataclasses import dataclass, field

from dp_vllm_gateway.outbox import LARGE_BYTES, Outbox


@dataclass
class Written:
    """A transport that notes what it is given, and with what of the others."""

    all: list[bytes]

    def write(self, data: bytes) -> None:
        self.all.append(data)


@dataclass
class Client:
    """A client's connection, as far as an outbox sees it."""

    transport: Written | None


@dataclass
class Scene:
    """Two clients of one outbox."""

    written: list[bytes] = field(default_factory=list)
    outbox: Outbox = field(default_factory=Outbox)

    def __post_init__(self) -> None:
        self.a, self.b = Client(Written(self.written)), Client(Written(self.written))


async def test_pieces_are_written_once_the_turn_is_over_and_in_order() -> None:
    scene = Scene()
    for number, client in enumerate((scene.a, scene.b, scene.a)):
        scene.outbox.send(client, b"%d" % number)
    assert scene.written == []
    await asyncio.sleep(0)
    assert scene.written == [b"0", b"1", b"2"]
    scene.outbox.send(scene.b, b"3")
    await asyncio.sleep(0)
    assert scene.written == [b"0", b"1", b"2", b"3"]


async def test_a_large_piece_is_written_at_once_but_not_before_what_came_first() -> None:
    scene = Scene()
    large = b"x" * LARGE_BYTES
    scene.outbox.send(scene.a, b"small")
    scene.outbox.send(scene.a, large)
    assert scene.written == [b"small", large]
    await asyncio.sleep(0)
    assert scene.written == [b"small", large], "nothing twice"


async def test_what_a_client_that_has_gone_was_to_be_sent_is_dropped() -> None:
    scene = Scene()
    scene.outbox.send(scene.a, b"lost")
    scene.outbox.send(scene.b, b"kept")
    scene.a.transport = None
    scene.outbox.flush()
    assert scene.written == [b"kept"]
