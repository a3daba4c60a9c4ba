"""Which beginnings of prompts an engine's prefix cache is taken to hold: those it was sent last, some more than fit.

A prompt is a list of block hashes, each chained over all blocks before it (`blocks`). Bounded by construction: the
block that was unused for longest goes first, and of one prompt the last blocks before the first, as in vLLM.
"""

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

KEPT: Final = 1.5
"""How many times as much as fits is remembered. Whoever comes back after his blocks have gone had better go back to
where they were than take room in another cache too: chosen by replaying traces (docs/adr/0011)."""


class Remembered:
    """An engine's blocks, the one unused for longest first.

    A block is never older than one that follows it in some prompt, so whoever holds a block holds all before it.
    """

    __slots__ = ("_held", "capacity")

    def __init__(self, capacity: int = 1) -> None:
        self.capacity = capacity
        """How many blocks fit into the engine; fewer are kept from the next prompt on if that has become less."""
        self._held: OrderedDict[int, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._held)

    def depth(self, blocks: Sequence[int]) -> int:
        """How many blocks of this prompt's beginning are held."""
        held = self._held
        if not blocks or blocks[0] not in held:
            return 0
        if blocks[-1] in held:
            return len(blocks)
        return bisect_left(blocks, True, key=lambda block: block not in held)

    def add(self, blocks: Sequence[int]) -> None:
        """The engine is sent a prompt."""
        held = self._held
        for block in reversed(blocks):
            if block in held:
                held.move_to_end(block)
            else:
                held[block] = None
        most = self.capacity * KEPT
        while len(held) > most:
            held.popitem(last=False)

    def blocks(self) -> list[int]:
        """All that are held, as a prompt that would leave them so: the one unused for longest last."""
        return list(reversed(self._held))

    def forget(self) -> None:
        """The engine's cache is empty again."""
        self._held.clear()
