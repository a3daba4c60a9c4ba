"""Remembers what people were told of the children, and tells them what is new. It must not touch what it looks at."""

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from dp_vllm.endpoints import State
from dp_vllm.local import bars, plan, words
from dp_vllm.local.bars import Bar
from dp_vllm.local.child import Child


class Narrator:
    """Says each thing once."""

    def __init__(
        self,
        say: Callable[[str], None],
        follow: Callable[[str, Path, Callable[[str], str]], None],
        stand: Callable[[Sequence[Bar]], None] | None = None,
    ) -> None:
        """`stand` shows bars until it is given others; None where nothing can stand, and lines are said instead."""
        self.say = say
        self.follow = follow
        """Show what a log gets, under this name; each line as the third argument makes it."""
        self._stand = stand
        self._told_bars: dict[str, Bar] = {}
        """What was last told of each replica that starts."""
        self._told_ready: dict[str, int] = {}
        """The start of each child that was last said to be ready."""
        self._told_end: dict[str, plan.End] = {}
        self._told_down: list[plan.End] = []
        """After what those ended that stay down."""
        self._told_left = float("inf")
        """The seconds left that were last said."""

    def tell_ends(self, gateway: Child, replicas: Sequence[Child], *, stopping: bool) -> None:
        """Say what ended; ends that were ordered are no news."""
        for child in (gateway, *replicas):
            self._tell_end(child, "the gateway" if child is gateway else f"replica {child.name}", stopping)

    def untold(self, replicas: Sequence[Child]) -> list[Child]:
        """Those that are ready and were not yet said to be."""
        return [each for each in replicas if each.state is State.READY and not self._is_told_ready(each)]

    def tell_ready(self, replica: Child, replicas: Sequence[Child]) -> None:
        """Say that this one of the replicas serves."""
        self._told_ready[replica.name] = replica.starts
        count = sum(each.state is State.READY and self._is_told_ready(each) for each in replicas)
        self.say(words.ready(f"replica {replica.name}", replica.start_seconds, count, len(replicas)))

    def tell_progress(self, replicas: Sequence[Child]) -> None:
        """Show how far each start is; as lines only what is new."""
        found = {bar.name: bar for bar in map(bars.of, replicas) if bar is not None}
        if found == self._told_bars:
            return
        if self._stand is not None:
            self._stand(list(found.values()))
        else:
            for name, bar in found.items():
                if bar != self._told_bars.get(name) and bar.words != bars.BEGINNING:
                    self.say(str(bar))
        self._told_bars = found

    def tell_in_flight(self, count: int, seconds_left: float) -> None:
        """Say every second how long what is in flight still has."""
        if count and 0 < seconds_left <= self._told_left - 1:
            self._told_left = seconds_left
            self.say(words.in_flight(count, seconds_left))

    def _is_told_ready(self, replica: Child) -> bool:
        return self._told_ready.get(replica.name) == replica.starts

    def _tell_end(self, child: Child, name: str, stopping: bool) -> None:
        ends = child.observed.ends
        if not ends or self._told_end.get(child.name) is ends[-1]:
            return
        self._told_end[child.name] = ends[-1]
        if stopping or child.observed.stop is not None:
            return
        at = plan.start_at(ends, child.limits)
        if at is None:
            # Replicas often fail for one and the same reason: its last lines once are enough.
            known = any(ends[-1].looks_like(end) for end in self._told_down)
            self.say(
                words.stays_down(name, ends[-1], [] if known else [child.redacted(line) for line in child.last_lines()])
            )
            self._told_down.append(ends[-1])
        else:
            self.say(words.ended(name, ends[-1], max(0, math.ceil(at - time.monotonic()))))
