"""Which replica made a stored response: only that one can continue, show or cancel it."""

import re
from collections import OrderedDict
from typing import Final

MOST: Final = 100_000
"""Responses whose home is remembered; the oldest goes first."""

_RESPONSE_ID: Final = re.compile(rb'"id":\s*"(resp_[\w.-]+)"')


class Homes:
    """A bounded map from response id to replica."""

    def __init__(self) -> None:
        self._homes: OrderedDict[str, str] = OrderedDict()

    def learn(self, answer: bytes, replica: str) -> None:
        """Take the response's id from the beginning of an answer, whole or streamed."""
        found = _RESPONSE_ID.search(answer[:4096])
        if found is None:
            return
        self._homes[found.group(1).decode()] = replica
        while len(self._homes) > MOST:
            self._homes.popitem(last=False)

    def of(self, response: str) -> str | None:
        """The replica that made the response, if it was made through this gateway."""
        return self._homes.get(response)
