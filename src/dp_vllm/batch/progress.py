"""Tells how far a batch is: a bar on a terminal, a line now and then elsewhere. It goes to standard error."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LINE_SECONDS: Final = 10.0
"""How often a line is written where there is no terminal."""
_WINDOW_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class Standing:
    """How far it is."""

    done: int
    total: int
    failed: int
    waiting: str = ""
    """Why nothing is answered at the moment."""


class Rate:
    """Answers a second, over the last while."""

    def __init__(self, now: float, done: int) -> None:
        self._seen = [(now, done)]

    def at(self, now: float, done: int) -> float:
        self._seen.append((now, done))
        while len(self._seen) > 2 and self._seen[1][0] <= now - _WINDOW_SECONDS:
            del self._seen[0]
        then, before = self._seen[0]
        return (done - before) / (now - then) if now > then else 0.0


def sentence(standing: Standing, rate: float) -> str:
    """`120 of 500 (24 %), 3 failed, 8.5/s, 45 s left`."""
    words = [f"{standing.done:,} of {standing.total:,} ({standing.done * 100 // max(1, standing.total)} %)"]
    if standing.failed:
        words.append(f"{standing.failed:,} failed")
    words.append(f"{rate:.1f}/s")
    if rate > 0 and standing.done < standing.total:
        words.append(f"{_span((standing.total - standing.done) / rate)} left")
    if standing.waiting:
        words.append(standing.waiting)
    return ", ".join(words)


def _span(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


@contextlib.contextmanager
def shown(total: int, done: int, console: Console) -> Iterator[Callable[[Standing], None]]:
    """During the block, what is returned tells how it stands; it is to be called often."""
    rate = Rate(time.monotonic(), done)
    if not console.is_terminal:
        yield _lines(console, rate)
        return
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[told]}", markup=False),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=total, completed=done, told="")

        def tell(standing: Standing) -> None:
            told = f"{standing.failed:,} failed, {rate.at(time.monotonic(), standing.done):.1f}/s {standing.waiting}"
            bar.update(task, completed=standing.done, told=told)

        yield tell


def _lines(console: Console, rate: Rate) -> Callable[[Standing], None]:
    last = time.monotonic()

    def tell(standing: Standing) -> None:
        nonlocal last
        now = time.monotonic()
        if now >= last + LINE_SECONDS:
            last = now
            console.print(f"dp-vllm batch: {sentence(standing, rate.at(now, standing.done))}", soft_wrap=True)

    return tell
