"""How news get from one process to others: what `gossip` needs of whatever carries them."""

from collections.abc import Callable, Collection, Sequence
from typing import Protocol, TypeAlias

from dp_vllm_gateway.workers.errors import MessageErrors
from dp_vllm_gateway.workers.news import News

Hear: TypeAlias = Callable[[Sequence[News]], None]


class Wires(Protocol):
    """Ways to others, each of which has a number here. What was taken arrives whole and in its order, or its end is
    told as a death."""

    most_standing_bytes: int
    """Of how a process stands, in one message."""

    errors: MessageErrors

    @property
    def number(self) -> int:
        """This process's own, as the others are told it."""

    def open(self, hear: Hear, greet: Callable[[], None]) -> None:
        """Say from now on what arrives, and when there is somebody new to greet."""

    def close(self) -> None:
        """Be read no more."""

    def drain(self) -> None:
        """Throw away what was told to a former life."""

    def others(self) -> Collection[int]:
        """Who can be told something."""

    def send(self, other: int, data: bytes) -> bool:
        """Tell one of them; False if there is no room now."""

    def receive(self) -> list[News]:
        """What has arrived and was not said yet."""
