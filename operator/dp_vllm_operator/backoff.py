"""How long the dead replicas of a model stay without a replacement.

A pod that is Failed or Succeeded was refused or thrown out by its node, and the next one may well have the same fate:
so replacements come after a while that grows. Synchronous. It knows one model's failures, no pods and no clock.
"""

from dataclasses import dataclass
from typing import Final

FIRST_SECONDS: Final = 10.0
LONGEST_SECONDS: Final = 300.0
FORGOTTEN_SECONDS: Final = 600.0
"""After so long without a failure, the next one is the first again."""


@dataclass(frozen=True, slots=True)
class Hold:
    """So many replicas stay missing until then."""

    replicas: int = 0
    until: float = 0.0
    """Seconds since the epoch."""

    def held(self, now: float) -> int:
        """How many may not be replaced yet."""
        return self.replicas if now < self.until else 0


class Failures:
    """The dead replicas of one model, and what follows from them.

    Replicas that die while others wait for their replacement wait with them, and make nobody wait longer: a node that
    starts again leaves several dead pods at once.
    """

    __slots__ = ("_hold", "_last", "_noted", "_row")

    def __init__(self) -> None:
        self._noted: dict[str, float] = {}
        """When each dead pod was last seen, by its uid."""
        self._row = 0
        """How many times in a row a replacement was put off."""
        self._last = 0.0
        self._hold = Hold()

    def note(self, uid: str, now: float) -> Hold:
        """This pod is dead. It may be said again for as long as the pod is there."""
        self._forget(now)
        if uid not in self._noted:
            self._last = now
            self._hold = self._longer(now)
        self._noted[uid] = now
        return self._hold

    def hold(self, now: float) -> Hold:
        """What holds now."""
        self._forget(now)
        return self._hold

    def _longer(self, now: float) -> Hold:
        if held := self._hold.held(now):
            return Hold(held + 1, self._hold.until)
        # Of a very long row 2 ** row would be no float any more.
        seconds = LONGEST_SECONDS if self._row > 10 else min(FIRST_SECONDS * 2**self._row, LONGEST_SECONDS)
        self._row += 1
        return Hold(1, now + seconds)

    def _forget(self, now: float) -> None:
        if now - self._last >= FORGOTTEN_SECONDS:
            self._row = 0
        if now >= self._hold.until:
            self._hold = Hold()
        self._noted = {uid: at for uid, at in self._noted.items() if now - at < FORGOTTEN_SECONDS}
