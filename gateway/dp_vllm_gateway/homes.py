"""Which replica made a stored response: only that one can continue, show or cancel it."""

import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Final

MOST: Final = 100_000
"""Responses whose home is remembered; the oldest goes first."""

_RESPONSE_ID: Final = re.compile(rb'"id":\s*"(resp_[\w.-]{1,250})"')
"""vLLM's has 37 characters. A client may choose it (`request_id`), so it may be longer, but not of any length."""


class Homes:
    """A bounded map from response id to replica."""

    def __init__(self) -> None:
        self._homes: OrderedDict[str, str] = OrderedDict()
        self.on_learned: Callable[[str, str], None] | None = None
        """Called with a response and its home."""

    def learn(self, answer: bytes, replica: str) -> None:
        """Take the response's id from the beginning of an answer, whole or streamed."""
        found = _RESPONSE_ID.search(answer[:4096])
        if found is None:
            return
        response = found.group(1).decode()
        self.put({response: replica})
        if self.on_learned is not None:
            self.on_learned(response, replica)

    def put(self, homes: Mapping[str, str]) -> None:
        """Responses that were made through this gateway, and who made them."""
        self._homes.update(homes)
        while len(self._homes) > MOST:
            self._homes.popitem(last=False)

    def all(self) -> dict[str, str]:
        """All that are remembered, the oldest first."""
        return dict(self._homes)

    def of(self, response: str) -> str | None:
        """The replica that made the response, if it was made through this gateway."""
        return self._homes.get(response)
