"""Blocks of KV cache: who holds them, which prefixes they remember, which is given away next.

The rules are those of vLLM's block pool: only full blocks are remembered, under a hash chained over all tokens before
them; a block whose last holder has left keeps what it remembers until it is needed; the one unused for longest goes
first, and of one sequence the last blocks before the first. Pure bookkeeping: nothing is stored, nothing waits.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Iterable, Sequence

import xxhash


def root(*parts: str) -> int:
    """Where a chain starts. Texts under another adapter or cache salt share no blocks."""
    return xxhash.xxh3_64_intdigest("\0".join(parts).encode("utf-8", "replace"))


def chain(tokens: array[int], block_size: int, parent: int) -> list[int]:
    """Hashes of the full blocks of these tokens; each covers everything before it."""
    data, step = tokens.tobytes(), block_size * tokens.itemsize
    hashes = []
    for start in range(0, len(data) - step + 1, step):
        parent = link(parent, data[start : start + step])
        hashes.append(parent)
    return hashes


def link(parent: int, block: bytes) -> int:
    """The hash of a block that follows the one with the hash `parent`."""
    return xxhash.xxh3_64_intdigest(block, parent)


class BlockCache:
    """All blocks of one engine. Blocks are numbers below `size`."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._holders = [0] * size
        self._hashes: list[int | None] = [None] * size
        self._remembered: dict[int, int] = {}
        self._unused: OrderedDict[int, None] = OrderedDict.fromkeys(range(size))

    @property
    def free(self) -> int:
        """Blocks that nobody holds, remembering or not."""
        return len(self._unused)

    @property
    def usage(self) -> float:
        """Share of the blocks that somebody holds, 0 to 1."""
        return 1.0 - len(self._unused) / self.size

    def find(self, hashes: Iterable[int]) -> list[int]:
        """The blocks that remember the longest prefix of these hashes; they are not held by that."""
        found = []
        for value in hashes:
            block = self._remembered.get(value)
            if block is None:
                break
            found.append(block)
        return found

    def spare_beside(self, found: Sequence[int]) -> int:
        """How many blocks could be taken if these were held too."""
        return len(self._unused) - sum(1 for block in found if not self._holders[block])

    def hold(self, found: Sequence[int]) -> None:
        """Become a further holder of blocks that were found."""
        for block in found:
            if not self._holders[block]:
                del self._unused[block]
            self._holders[block] += 1

    def take(self, count: int) -> list[int]:
        """`count` blocks for new tokens; what they remembered is forgotten. There must be as many free ones."""
        taken = []
        for _ in range(count):
            block, _nothing = self._unused.popitem(last=False)
            self._forget(block)
            self._holders[block] = 1
            taken.append(block)
        return taken

    def remember(self, block: int, value: int) -> None:
        """The block is full; the first block that remembers a hash keeps it."""
        if value not in self._remembered and self._hashes[block] is None:
            self._remembered[value] = block
            self._hashes[block] = value

    def release(self, blocks: Sequence[int]) -> None:
        """Stop holding a sequence's blocks."""
        for block in reversed(blocks):
            self._holders[block] -= 1
            if not self._holders[block]:
                self._unused[block] = None

    def forget_all(self) -> bool:
        """Forget every prefix; refused, as in vLLM, while somebody holds a block."""
        if len(self._unused) != self.size:
            return False
        self._remembered.clear()
        self._hashes = [None] * self.size
        return True

    def _forget(self, block: int) -> None:
        value = self._hashes[block]
        if value is not None:
            del self._remembered[value]
            self._hashes[block] = None
