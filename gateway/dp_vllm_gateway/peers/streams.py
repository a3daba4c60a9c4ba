"""Carries news between the gateways of one model: a connection between each two, and nobody else.

Who the others are the API server says (`sync`). Of two gateways the one with the greater address connects. Each
connection is another life of the one at its other end: it is told all, and its end is a death.
"""

import asyncio
import contextlib
import ipaddress
import itertools
import logging
import socket
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Final

from dp_vllm_gateway.peers.stream import Stream
from dp_vllm_gateway.workers import news
from dp_vllm_gateway.workers.errors import MessageErrors
from dp_vllm_gateway.workers.news import News
from dp_vllm_gateway.workers.wires import Hear

LOOK_SECONDS: Final = 0.5
"""How often it is looked who has to be connected to, and who has fallen silent."""

CONNECT_SECONDS: Final = 3.0

RETRY_MOST_SECONDS: Final = 4.0
"""Between two tries to connect to one that cannot be connected to, or whose connections end at once; at first
`LOOK_SECONDS`, then twice as long after each further failure."""

STEADY_SECONDS: Final = 10.0
"""The end of a connection that lasted so long is a first failure."""

DEAD_SECONDS: Final = 5.0
"""A connection on which nothing was heard for so long is closed: each end speaks twice a second."""

_IPV4: Final = 4

_NONE: Final = (0, 0.0)

log = logging.getLogger(__name__)


class Streams:
    """Owns the connections to the other gateways. To be made within a running event loop."""

    number: Final = 0

    most_standing_bytes = 2 << 20
    """Together with `news.MOST_BYTES` of facts less than `frames.MOST_BYTES`."""

    def __init__(self, address: str, port: int, *, dead_seconds: float = DEAD_SECONDS) -> None:
        """`address` is this gateway's own, as the API server names it."""
        self._own = ipaddress.ip_address(address)
        self._port = port
        self._dead_seconds = dead_seconds
        self._wanted: frozenset[str] = frozenset()
        """The addresses of the others."""
        self._changed = asyncio.Event()
        self._streams: dict[str, Stream] = {}
        """By address."""
        self._of: dict[int, Stream] = {}
        """By number."""
        self._numbers = itertools.count(1)
        self.errors = MessageErrors()
        self._failures: dict[str, tuple[int, float]] = {}
        """By address: how many there were in a row, and when the next try is due."""
        self._troubled: set[str] = set()
        """Of whom it was logged that there is no connection."""
        self._hear: Hear = _nobody_hears
        self._greet: Callable[[], None] = _nobody_greets
        self._dead: list[News] = []
        self._loop = asyncio.get_running_loop()

    def sync(self, addresses: Iterable[str]) -> None:
        """These are the gateways of the model, as far as they have an address, this one too."""
        own = str(self._own)
        self._wanted = frozenset(str(ipaddress.ip_address(address)) for address in addresses) - {own}
        for address in self._streams.keys() - self._wanted:
            self._streams[address].end("it is a gateway of the model no more")
        self._troubled &= self._wanted
        self._failures = {address: failed for address, failed in self._failures.items() if address in self._wanted}
        self._changed.set()

    def count(self) -> int:
        """How many others are connected and speak our language."""
        return len(self.others())

    async def run(self, listener: socket.socket) -> None:
        """Be connected to each of the others, until cancelled; those with greater addresses connect here."""
        listener.setblocking(False)
        self._loop.add_reader(listener, self._accept, listener)
        try:
            async with asyncio.TaskGroup() as group:
                connecting: dict[str, asyncio.Task[None]] = {}
                while True:
                    self._end_silent()
                    for address in self._to_connect():
                        if address not in connecting or connecting[address].done():
                            connecting[address] = group.create_task(self._connect(address))
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(LOOK_SECONDS):
                            await self._changed.wait()
                    self._changed.clear()
        finally:
            self._loop.remove_reader(listener)
            for stream in list(self._streams.values()):
                stream.end("this gateway ends")

    # as wires

    def open(self, hear: Hear, greet: Callable[[], None]) -> None:
        """From now on say what arrives."""
        self._hear, self._greet = hear, greet

    def close(self) -> None:
        """Say nothing more."""
        self._hear, self._greet = _nobody_hears, _nobody_greets

    def drain(self) -> None:
        """Nothing is told to a former life: its connections ended with it."""

    def others(self) -> Collection[int]:
        """Those that have said that they speak our language."""
        return [number for number, stream in self._of.items() if stream.speaks]

    def send(self, other: int, data: bytes) -> bool:
        """False if there is no room, or the connection has ended."""
        stream = self._of.get(other)
        return stream is not None and stream.send(data)

    def receive(self) -> list[News]:
        """What has come on any connection."""
        heard = [said for stream in list(self._streams.values()) for said in self._read(stream)]
        dead, self._dead = self._dead, []
        return heard + dead

    # connections

    def _to_connect(self) -> list[str]:
        now, own = self._loop.time(), _rank(str(self._own))
        missing = self._wanted - self._streams.keys()
        due = [address for address in missing if self._failures.get(address, _NONE)[1] <= now]
        return [address for address in due if _rank(address) < own]

    def _back_off(self, address: str) -> None:
        if address in self._wanted:
            failures = self._failures.get(address, _NONE)[0] + 1
            pause = min(LOOK_SECONDS * 2 ** min(failures - 1, 10), RETRY_MOST_SECONDS)
            self._failures[address] = failures, self._loop.time() + pause

    async def _connect(self, address: str) -> None:
        sock = socket.socket(socket.AF_INET if self._own.version == _IPV4 else socket.AF_INET6)
        try:
            sock.setblocking(False)
            sock.bind((str(self._own), 0))  # by which the others know this gateway
            async with asyncio.timeout(CONNECT_SECONDS):
                await self._loop.sock_connect(sock, (address, self._port))
        except (OSError, TimeoutError) as error:
            sock.close()
            self._back_off(address)
            self._tell(address, f"it cannot be connected to: {str(error) or type(error).__name__}")
        except BaseException:
            sock.close()
            raise
        else:
            self._begin(address, sock)

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            sock, (address, *_) = listener.accept()
            self._begin(str(ipaddress.ip_address(address)), sock)

    def _begin(self, address: str, sock: socket.socket) -> None:
        if address not in self._wanted:  # if it is one that the API server tells of in a moment, it will come again
            sock.close()
            return
        if address in self._streams:  # it began anew, and its end was not heard
            self._streams[address].end("it has connected again")
        stream = Stream(
            *(next(self._numbers), address, sock, self.errors), on_readable=self._readable, on_end=self._ended
        )
        self._streams[address] = self._of[stream.number] = stream
        stream.begin()

    def _readable(self, stream: Stream) -> None:
        if heard := self._read(stream):
            self._hear(heard)

    def _read(self, stream: Stream) -> list[News]:
        spoke = stream.speaks
        heard = stream.read()
        if stream.speaks and not spoke:
            log.info("the gateway at %s is told what this one does, and tells", stream.address)
            self._troubled.discard(stream.address)
            self._greet()
        return heard

    def _ended(self, stream: Stream, why: str) -> None:
        del self._of[stream.number]
        del self._streams[stream.address]
        if self._loop.time() >= stream.began_at + STEADY_SECONDS:
            self._failures.pop(stream.address, None)
        self._back_off(stream.address)
        self._tell(stream.address, why)
        self._dead.append(News(stream.number, None, [news.Died(stream.number)]))
        self._loop.call_soon(self._bury)  # whoever sends to it goes through a list that it is in

    def _bury(self) -> None:
        dead, self._dead = self._dead, []
        if dead:
            self._hear(dead)

    def _end_silent(self) -> None:
        now = self._loop.time()
        for stream in list(self._streams.values()):
            if now >= stream.heard_at + self._dead_seconds:
                stream.end(f"nothing was heard of it for {self._dead_seconds:g} s")

    def _tell(self, address: str, why: str) -> None:
        if address in self._wanted and address not in self._troubled:
            log.info("the gateway at %s is told nothing, and tells nothing: %s", address, why)
            self._troubled.add(address)


def _rank(address: str) -> tuple[int, bytes]:
    parsed = ipaddress.ip_address(address)
    return parsed.version, parsed.packed


def _nobody_hears(heard: Sequence[News]) -> None:
    """There is no team yet."""


def _nobody_greets() -> None:
    """There is no team yet."""
