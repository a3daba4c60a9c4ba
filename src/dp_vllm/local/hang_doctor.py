"""Looks at ready engines, finds those that hang, and has them ended: the I/O around `engine.hang` and `local.hangs`."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final

from dp_vllm.endpoints import State
from dp_vllm.engine import hang
from dp_vllm.engine.hang import Look, Standstill
from dp_vllm.local import hangs, probe, words
from dp_vllm.local.child import Child

LOOKS: Final = 12
"""In the time after which an engine is taken for hung; at most one in `LONGEST_PAUSE_SECONDS`."""
LONGEST_PAUSE_SECONDS: Final = 15.0

CANARY_SECONDS: Final = 10.0
"""How long an engine that does nothing may take for the smallest request."""


class HangDoctor:
    """What is known of each replica's standstill, and which were ended for it."""

    def __init__(
        self, replicas: Callable[[], Sequence[Child]], hang_seconds: float, say: Callable[[str], None]
    ) -> None:
        self._replicas = replicas
        self._hang_seconds = hang_seconds
        self._say = say
        self._standstills: dict[tuple[str, int], Standstill] = {}
        """By name and start: another life begins anew."""
        self._ended: dict[str, list[float]] = {}
        self._said: dict[str, str] = {}
        """Why a replica that hangs is left alone, as it was last said."""
        self._said_blind = False

    async def watch(self) -> None:
        """Look for ever; with a limit of 0, never."""
        while self._hang_seconds > 0:
            await asyncio.sleep(min(self._hang_seconds / LOOKS, LONGEST_PAUSE_SECONDS))
            ready = [child for child in self._replicas() if child.state is State.READY]
            looks = await asyncio.gather(*(probe.look(child.address) for child in ready))
            self._note(ready, looks)
            for child in ready:
                await self._judge(child)

    def _note(self, ready: Sequence[Child], looks: Sequence[Look]) -> None:
        now, before = time.monotonic(), self._standstills
        self._standstills = {}
        for child, look in zip(ready, looks, strict=True):
            key = (child.name, child.starts)
            if standstill := hang.follow(before.get(key), look, now):
                self._standstills[key] = standstill
            if look.requests and not look.counters and not self._said_blind:
                self._said_blind = True
                self._say(words.NO_HANG_DOCTOR)

    async def _judge(self, child: Child) -> None:
        key, now = (child.name, child.starts), time.monotonic()
        standstill = self._standstills.get(key)
        if standstill is None or now - standstill.since < self._hang_seconds:
            self._said.pop(child.name, None)
            return
        patience = min(self._hang_seconds, CANARY_SECONDS)
        if standstill.look.answers and await probe.is_idle_rightly(child.address, patience):
            del self._standstills[key]
            return
        sentence = standstill.look.says(now - standstill.since)
        if child.state is not State.READY or key != (child.name, child.starts):
            return  # it ended meanwhile
        others = [each for each in self._replicas() if each is not child]
        ready = [each.name for each in others if each.state is State.READY and each.models == child.models]
        away = [each.name for each in others if each.name in self._ended and _is_coming(each)]
        if reason := hangs.why_not(self._ended.get(child.name, ()), ready, away, now):
            if self._said.get(child.name) != reason:
                self._said[child.name] = reason
                self._say(words.hangs_on(child.name, sentence, reason))
            return
        self._ended.setdefault(child.name, []).append(now)
        child.end_hung(sentence)


def _is_coming(child: Child) -> bool:
    """Whether it is not ready now, and is to be."""
    return child.state is not State.READY and child.observed.stop is None and not child.stays_down
