"""Whether watches tell of every change: compares what they announced with what a list shows later. Synchronous.

Silence of a watch proves nothing, since nothing may have changed. A version that a list shows, and that no watch has
told of a while after, was missed. It knows objects by uid and resourceVersion only.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

LATE_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class _Heard:
    version: str
    at: float


@dataclass(slots=True)
class _Unheard:
    version: str
    since: float
    """Since when it could have been heard of, without an interruption."""
    counted: bool = False


class Announcements:
    """The last version of each object that was announced, and those that were not."""

    def __init__(self) -> None:
        self._heard: dict[str, _Heard] = {}
        self._unheard: dict[str, _Unheard] = {}
        self._missed = 0

    def heard(self, uid: str, version: str, now: float) -> None:
        """A watch announced this version of the object, perhaps after a later one."""
        last = self._heard.get(uid)
        newest = version if last is None or _reaches(version, last.version) else last.version
        self._heard[uid] = _Heard(newest, now)
        waiting = self._unheard.get(uid)
        if waiting is not None and _reaches(version, waiting.version):
            self._count(now)
            del self._unheard[uid]

    def listed(self, versions: Mapping[str, str], began: float, now: float) -> None:
        """All objects, as a list that was begun then has shown them; what it does not show is gone."""
        self._count(now)
        self._heard = {uid: last for uid, last in self._heard.items() if uid in versions or last.at >= began}
        self._unheard = {
            uid: self._unheard.get(uid) or _Unheard(version, now)
            for uid, version in versions.items()
            if not self._knows(uid, version)
        }

    def interrupted(self, now: float) -> None:
        """Nothing can have been announced until now: the API server does not answer."""
        self._count(now)
        for waiting in self._unheard.values():
            waiting.since = now

    def overdue(self, now: float) -> list[str]:
        """Objects of which a watch should have told long ago."""
        return [uid for uid, waiting in self._unheard.items() if now - waiting.since >= LATE_SECONDS]

    def missed(self, now: float) -> int:
        """How many announcements have been overdue, ever."""
        self._count(now)
        return self._missed

    def _knows(self, uid: str, version: str) -> bool:
        last = self._heard.get(uid)
        return last is not None and _reaches(last.version, version)

    def _count(self, now: float) -> None:
        for uid in self.overdue(now):
            self._missed += not self._unheard[uid].counted
            self._unheard[uid].counted = True


def _reaches(heard: str, version: str) -> bool:
    """Whether an announced version is this one or a later one. Versions of one kind are numbers that grow."""
    if not (heard.isdecimal() and version.isdecimal()):
        return True
    return int(heard) >= int(version)
