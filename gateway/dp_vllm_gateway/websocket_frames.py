"""Counts the bytes of a WebSocket message whose end has not come (RFC 6455, 5.2 and 5.4). Pure.

It reads frame headers only; what is malformed is refused by the WebSocket's own reader.
"""

from typing import Final

_FIN: Final = 0x80
_CONTROL: Final = 0x08
_MASKED: Final = 0x80
_LENGTH: Final = 0x7F
_LENGTH_BYTES: Final = {126: 2, 127: 8}


class Unfinished:
    """Follows one direction of a WebSocket."""

    __slots__ = ("_control", "_ends", "_head", "_missing", "size")

    def __init__(self) -> None:
        self.size = 0
        """Payload bytes of the message whose end has not come."""
        self._head = b""
        """As much as has come of a frame's header."""
        self._missing = 0
        """Payload bytes of the present frame that have not come."""
        self._control = False
        """It is a ping, a pong or a close, which is short and may come within a message."""
        self._ends = False
        """The last data frame ends its message."""

    def feed(self, data: bytes) -> None:
        """These bytes have come."""
        place = 0 if self._missing or self._head else self._short_frames(data)
        while place < len(data):
            if self._missing:
                taken = min(self._missing, len(data) - place)
                place += taken
                self._missing -= taken
                self.size += 0 if self._control else taken
                self._end_frame()
                continue
            missing = _head_bytes(self._head) - len(self._head)
            self._head += data[place : place + missing]
            place += missing
            if len(self._head) == _head_bytes(self._head):
                self._begin_frame(self._head)
                self._head = b""

    def _short_frames(self, data: bytes) -> int:
        """Take the whole short frames at the beginning, quickly: there can be tens of thousands. Where they end."""
        place, end = 0, len(data) - 1
        while place < end:
            first, second = data[place], data[place + 1]
            length = second & _LENGTH
            after = place + 2 + length + (4 if second & _MASKED else 0)
            if length in _LENGTH_BYTES or after > len(data):
                break
            if not first & _CONTROL:
                self._ends = bool(first & _FIN)
                self.size = 0 if self._ends else self.size + length
            place = after
        return place

    def _begin_frame(self, head: bytes) -> None:
        length = head[1] & _LENGTH
        self._missing = int.from_bytes(head[2 : 2 + _LENGTH_BYTES[length]]) if length in _LENGTH_BYTES else length
        self._control = bool(head[0] & _CONTROL)
        if not self._control:
            self._ends = bool(head[0] & _FIN)
        self._end_frame()

    def _end_frame(self) -> None:
        if not self._missing and self._ends:
            self.size = 0


def _head_bytes(head: bytes) -> int:
    """How long a frame's header is that begins so."""
    if len(head) < 2:
        return 2
    return 2 + _LENGTH_BYTES.get(head[1] & _LENGTH, 0) + (4 if head[1] & _MASKED else 0)
