"""How news are told apart in a stream of bytes, and whether the other end speaks our language at all. Pure."""

from typing import Final

GREETING: Final = b"dp-vllm gateway, peers 1\n"
"""The first bytes of each stream. The number is the language's: another one is not listened to. A fact of a kind that
is not known is left out, so a new kind of fact is no other language."""

MOST_BYTES: Final = 4 << 20
"""Of one frame: far more than `news.MOST_BYTES` and how a gateway stands at a thousand replicas."""

_LENGTH_BYTES: Final = 4


def framed(data: bytes) -> bytes:
    """The data as it goes into a stream."""
    return len(data).to_bytes(_LENGTH_BYTES) + data


class Frames:
    """Takes one stream apart. Holds no more than one frame that is not whole, and what was read with it."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self.greeted = False
        """The other end has said that it speaks our language."""

    def take(self, data: bytes | memoryview) -> list[bytes]:
        """The frames that are whole now. Raises ValueError if this is not our language."""
        held = self._bytes
        held += data
        if not self.greeted and not self._greeting():
            return []
        whole, start = [], 0
        while len(held) >= start + _LENGTH_BYTES:
            begin = start + _LENGTH_BYTES
            size = int.from_bytes(held[start:begin])
            if size > MOST_BYTES:
                raise ValueError(f"a frame of {size} bytes")
            if len(held) < begin + size:
                break
            whole.append(bytes(held[begin : begin + size]))
            start = begin + size
        del held[:start]
        return whole

    def _greeting(self) -> bool:
        said = bytes(self._bytes[: len(GREETING)])
        if not GREETING.startswith(said):
            raise ValueError(f"it begins with {said!r}, not {GREETING!r}")
        if len(said) < len(GREETING):
            return False
        del self._bytes[: len(GREETING)]
        self.greeted = True
        return True
