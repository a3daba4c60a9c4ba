"""Carries news between the workers of one gateway, on the unix sockets that their parent made."""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Callable, Collection
from typing import Final

from dp_vllm_gateway.workers import news
from dp_vllm_gateway.workers.errors import MessageErrors
from dp_vllm_gateway.workers.news import News
from dp_vllm_gateway.workers.place import Place
from dp_vllm_gateway.workers.wires import Hear

_MOST_AT_ONCE: Final = 64
"""Datagrams that are read before others have their turn."""


class Datagrams:
    """The sockets of one worker. A datagram that was taken arrives, whoever reads there by then."""

    most_standing_bytes = 140_000
    """Together with `news.MOST_BYTES` of facts less than the 212,992 bytes that the system sends by default."""

    def __init__(self, place: Place) -> None:
        self.number = place.number
        self.errors = MessageErrors()
        self._place = place
        self._parts: defaultdict[int, news.Parts] = defaultdict(news.Parts)
        self._buffer = bytearray(1 << 18)
        self._loop = asyncio.get_running_loop()

    def open(self, hear: Hear, greet: Callable[[], None]) -> None:
        """The others are there from the beginning, or come in the place of one that was."""

        def readable() -> None:
            if heard := self._read(1):
                hear(heard)

        self._loop.add_reader(self._place.inbox, readable)

    def close(self) -> None:
        """Be read no more."""
        self._loop.remove_reader(self._place.inbox)

    def drain(self) -> None:
        """Throw away what was told to a former life."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self._place.inbox.recv_into(self._buffer)

    def others(self) -> Collection[int]:
        """All that have a place."""
        return self._place.others.keys()

    def send(self, other: int, data: bytes) -> bool:
        """False if there is no room: it does not read now."""
        try:
            self._place.others[other].send(data)
        except OSError:
            return False
        return True

    def receive(self) -> list[News]:
        """What has arrived, but not so much that others would wait."""
        return self._read(_MOST_AT_ONCE)

    def _read(self, most: int) -> list[News]:
        heard = []
        with contextlib.suppress(BlockingIOError):
            for _ in range(most):
                size = self._place.inbox.recv_into(self._buffer)
                try:
                    heard.append(self._news(memoryview(self._buffer)[:size]))
                except (ValueError, RecursionError) as error:
                    self.errors.add("read", error)
        return heard

    def _news(self, data: memoryview) -> News:
        said = news.read(data)
        known = said.standing is None if said.worker == news.PARENT else said.worker in self._place.others
        if not known:
            raise ValueError(f"there is no worker {said.worker}")
        return News(said.worker, said.standing, self._parts[said.worker].whole(said.facts))
