"""Random messages between gateway processes: none ends the process that reads it or makes it hold more than its bounds.

They are valid ones in odd orders, with odd numbers and types in them, cut and damaged; each reaches a whole `Team`.
"""

import asyncio
import logging
import math
import random
import socket
from collections.abc import Collection, Sequence
from typing import Any, Final

import fuzzing
import msgspec
import pytest

from dp_vllm.endpoints import Endpoint, EndpointSet
from dp_vllm_gateway import homes
from dp_vllm_gateway.broadcast import Broadcasts
from dp_vllm_gateway.config import GatewayConfig
from dp_vllm_gateway.lasting import MOST_CHANGES
from dp_vllm_gateway.listeners import Listeners
from dp_vllm_gateway.member import NOWHERE, Seen
from dp_vllm_gateway.peers import frames
from dp_vllm_gateway.peers.frames import Frames
from dp_vllm_gateway.pool import Pool
from dp_vllm_gateway.proxy import Proxy
from dp_vllm_gateway.routing.remembered import KEPT
from dp_vllm_gateway.routing.router import Router
from dp_vllm_gateway.workers import news
from dp_vllm_gateway.workers.datagrams import Datagrams
from dp_vllm_gateway.workers.errors import MessageErrors
from dp_vllm_gateway.workers.news import News
from dp_vllm_gateway.workers.place import Place
from dp_vllm_gateway.workers.team import DECISIONS, METRICS, Team
from dp_vllm_gateway.workers.wires import Hear, Wires

pytestmark = pytest.mark.fuzz

REPLICAS: Final = ("m-1-0", "m-1-1")
PEERS: Final = (1, 2)
ODD: Final[tuple[Any, ...]] = (
    *(-1, 0, 1, 2**31, 2**53, 2**53 + 1, 2**63, 2**64 - 1, -(2**63), math.nan, math.inf, -0.0, 1e308),
    *(None, True, "", "a" * 300, b"", b"x" * 70_000, [], [[]], {}, {"a": "b"}, "metrics", "\N{LINE SEPARATOR}"),
)
METRICS_TEXT: Final = b"# HELP a b\n# TYPE a counter\na 1.0\n"
CHANGE: Final = ("changed", "POST", "/v1/load_lora_adapter", b"a: b\r\n", b'{"lora_name": "sql"}')
PIECES: Final = (
    *(b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xdb\x7f\xff\xff\xff", b"\xc0"),
    *(b"\x91" * 2_000, b"\xcf" + b"\xff" * 8, b"\xcb\x7f\xf8" + b"\0" * 6, b"\xc7\x05\x01", b"\xd6\xff\0\0\0\0"),
    *(b"\0\0\0\0", b"\xff\xff\xff\xff", b"\0\x40\0\0", frames.GREETING, b"\xa4sent", b"\xa6joined", b"\xa4died"),
)


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Each case logs its first error of each kind."""
    caplog.set_level(logging.ERROR, "dp_vllm_gateway.workers.errors")


class Nowhere:
    """Wires to others that take what they are sent, now and then."""

    number: Final = 0
    most_standing_bytes = 2_000

    def __init__(self) -> None:
        self.errors = MessageErrors()
        self.sent = 0

    def open(self, hear: Hear, greet: object) -> None: ...

    def close(self) -> None: ...

    def drain(self) -> None: ...

    def others(self) -> Collection[int]:
        return PEERS

    def send(self, other: int, data: bytes) -> bool:
        assert len(data) <= self.most_standing_bytes + 2 * news.MOST_BYTES
        news.read(data)  # the others can read it
        self.sent += 1
        return self.sent % 7 > 0

    def receive(self) -> list[News]:
        return []


class Scene:
    """A gateway process as far as messages reach it."""

    def __init__(self, wires: Wires) -> None:
        loop = asyncio.get_running_loop()
        self.pool = Pool(connect_seconds=1, clock=loop.time)
        self.pool.sync(EndpointSet(1, tuple(Endpoint(name, "h:1", "i") for name in REPLICAS)))
        for name in REPLICAS:
            self.pool.observe(name, "i", Seen(healthy=True, certain=True, models=frozenset({"m"})))
        config = GatewayConfig(replicas=("h:1",))
        self.proxy = Proxy(config, self.pool, Router(config.policy, rng=random.Random(1)))
        self.broadcasts = Broadcasts(self.pool, seconds=1, on_forget=self.pool.forget_prefixes)
        answers = {METRICS: lambda: METRICS_TEXT, DECISIONS: lambda: b"[]"}
        self.team = Team(wires, self.pool, self.proxy.queue, self.proxy.homes, self.broadcasts, answers)

    def hear(self, heard: Sequence[News]) -> None:
        """Take in messages, and hold what must be true after any of them."""
        self.team._listen(heard)
        for member in self.pool.members():
            assert member.own == NOWHERE
            assert 0 <= member.sequences <= len(PEERS) * news.MOST_LOADS << 53
            assert len(member.remembered) <= member.remembered.capacity * KEPT + 1
        assert len(self.proxy.homes.all()) <= homes.MOST
        assert len(self.broadcasts.changes()) <= MOST_CHANGES
        self.pool.tick()

    def bury(self, workers: Collection[int]) -> None:
        """All others have died: nothing of what they had is counted."""
        self.hear([News(worker, None, [news.Died(worker)]) for worker in workers])
        assert [(member.sequences, member.waiting_tokens) for member in self.pool.members()] == [(0, 0)] * len(REPLICAS)


def fact(rng: random.Random) -> Any:
    """A fact as it is written, valid but for what `odd` puts into it."""
    number = rng.randrange(3)
    return rng.choice(
        [
            ("sent", rng.choice(REPLICAS), "i", [rng.getrandbits(64) for _ in range(rng.randrange(5))]),
            ("sent", "m-1-0", "i", [7] * rng.choice((1, 4_096, 4_097))),
            ("homes", {f"resp_{number}": rng.choice(REPLICAS)}),
            ("homes", {f"resp_{each}": "0" for each in range(rng.choice((0, 1_000, 1_001)))}),
            ("forgotten",),
            CHANGE,
            ("changed", rng.choice(("POST", "DELETE")), rng.choice(("/sleep?level=1", "/v1/%2f", "?", "")), b"", b"{"),
            ("joined",),
            ("died", number),
            ("counted", rng.choice((METRICS_TEXT, b"# x", b"a b\n\xff", b"# TYPE a counter\na x\n"))),
            ("asked", number, rng.choice((METRICS, DECISIONS, "x")), METRICS_TEXT),
            ("answered", number, METRICS_TEXT),
            ("part", rng.choice((b"", b"\x94\xa4sent", b"\x91\xa6joined", b"x" * 60_000)), rng.randrange(2) == 0),
            ("unknown", 1),
        ]
    )


def odd(rng: random.Random, value: Any) -> Any:
    """The value with an odd one somewhere in it, perhaps."""
    if isinstance(value, (tuple, list)) and value and rng.randrange(4):
        at = rng.randrange(len(value))
        return [*value[:at], odd(rng, value[at]), *value[at + 1 :]]
    return rng.choice(ODD)


def message(rng: random.Random) -> bytes:
    """A message, or something like one."""
    loads = [(rng.choice(REPLICAS), rng.choice("ij"), *(rng.choice((0, 1, 2**53)) for _ in range(3)))]
    standing = (1, rng.randrange(3), rng.randrange(3), loads * rng.randrange(4)) if rng.randrange(4) else None
    value: Any = (rng.choice((-1, 0, 1, 2, 3)), standing, [fact(rng) for _ in range(rng.randrange(4))])
    if rng.randrange(4) == 0:
        value = odd(rng, value)
    data = msgspec.msgpack.encode(value)
    return fuzzing.mutated(rng, data, PIECES) if rng.randrange(6) == 0 else data


async def test_no_message_of_another_gateway_harms_this_one(seconds: float) -> None:
    understood = 0

    def check(rng: random.Random) -> None:
        nonlocal understood
        wires = Nowhere()
        scene = Scene(wires)
        for peer in (*PEERS, 1):
            taking, parts = Frames(), news.Parts()
            written = frames.GREETING + b"".join(frames.framed(message(rng)) for _ in range(rng.randrange(1, 8)))
            if rng.randrange(8) == 0:
                written = fuzzing.mutated(rng, written, PIECES)
            try:
                while written:
                    size = rng.choice((1 + len(written) // 20, 1 << 18))
                    read = taking.take(written[:size])
                    written = written[size:]
                    assert len(taking._bytes) <= frames.MOST_BYTES + size + 4
                    heard = [news.read_foreign(frame, peer, parts) for frame in read]
                    scene.hear(heard)
                    understood += len(heard)
            except ValueError:
                scene.hear([News(peer, None, [news.Died(peer)])])  # the connection ends
            assert parts._bytes <= 2 * news.MOST_WHOLE_BYTES and sum(map(len, parts._pieces)) <= news.MOST_WHOLE_BYTES
        scene.bury(PEERS)
        assert wires.errors.count == 0, "what is understood can be applied"

    cases = fuzzing.fuzz(check, seconds)
    assert cases < 100 or understood > cases, "hardly any message was understood"


async def test_no_datagram_of_another_worker_harms_this_one(seconds: float) -> None:
    inbox, outbox = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with inbox, outbox:
        inbox.setblocking(False)
        outbox.setblocking(False)
        place = Place(0, inbox, dict.fromkeys(PEERS, outbox), Listeners([], None, None), 0)

        def check(rng: random.Random) -> None:
            wires = Datagrams(place)
            wires.drain()
            scene = Scene(wires)
            for _ in range(rng.randrange(1, 12)):
                outbox.send(message(rng)[:200_000] or b"\xc0")
                scene.hear(wires.receive())
                wires.drain()  # what this worker has said to the others arrives here too
            assert set(wires._parts) <= {*PEERS, news.PARENT}
            assert set(scene.team._others.alive()) <= {*PEERS, news.PARENT}
            scene.bury((*PEERS, news.PARENT))

        fuzzing.fuzz(check, seconds)
