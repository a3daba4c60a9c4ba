"""Draws how far each replica's start is, as bars for a terminal and as lines for everything else. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from rich.console import Console
from rich.progress_bar import ProgressBar

from dp_vllm.endpoints import State
from dp_vllm.local.child import Child

BEGINNING: Final = "begins"
"""Of an engine that has told nothing yet."""

_BAR: Final = 20
"""Characters of a full bar."""


@dataclass(frozen=True, slots=True)
class Bar:
    """The start of one replica, so coarse that what is shown changes every ten percent."""

    name: str
    words: str
    percent: int | None = None
    """Full tens of the present stage; None if it does not count."""

    @property
    def text(self) -> str:
        return self.words if self.percent is None else f"{self.words}, {self.percent} %"

    def __str__(self) -> str:
        return f"replica {self.name}: {self.text}"


def of(child: Child) -> Bar | None:
    """What is to be shown of a replica; None if it does not start now."""
    if child.state is not State.STARTING:
        return None
    if child.waits_for or child.stage is None:
        return Bar(child.name, child.waits_for or BEGINNING)
    percent = child.stage.percent
    return Bar(child.name, child.stage.words, None if percent is None else percent // 10 * 10)


def drawn(bars: Sequence[Bar], width: int, most: int, *, colours: bool) -> list[str]:
    """A line for each, none longer than the terminal is wide; beyond `most` they are only counted."""
    shown, left = bars[: max(most, 1)], len(bars) - max(most, 1)
    console = Console(width=_BAR, force_terminal=colours, color_system="standard" if colours else None)
    longest = max((len(bar.name) for bar in shown), default=0)
    room = width - len("replica   ") - longest - _BAR
    lines = []
    for bar in shown:
        with console.capture() as captured:
            console.print(ProgressBar(100, bar.percent or 0, _BAR), end="")
        lines.append(f"replica {bar.name:<{longest}} {captured.get():<{_BAR}} {bar.text[: max(room, 0)]}")
    return [*lines, f"and {left} more"] if left > 0 else lines
