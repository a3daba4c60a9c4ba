"""Ids for requests whose clients give none: `/abort_requests` takes ids, so no client may guess another's."""

import os
from typing import Final

ID_BYTES: Final = 16
BLOCK_IDS: Final = 256
"""So many are made at once, because asking the system for random bytes costs more than the bytes."""


class RequestIds:
    """Owns ids that no request has yet."""

    def __init__(self) -> None:
        self._unused: list[str] = []

    def next(self) -> str:
        """A new id, of random hexadecimal digits."""
        if not self._unused:
            block, digits = os.urandom(ID_BYTES * BLOCK_IDS).hex(), 2 * ID_BYTES
            self._unused = [block[at : at + digits] for at in range(0, len(block), digits)]
        return self._unused.pop()
