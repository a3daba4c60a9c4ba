"""Shows the run in the terminal: the supervisor's own words, and each log's lines under a coloured name.

A thread of its own does the reading and writing, because a terminal may stand still (Ctrl-S, a pager) and engines must
not stand still with it. It must not know what a line means.
"""

import contextlib
import os
import queue
import re
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from types import TracebackType
from typing import Final

from dp_vllm.local import bars
from dp_vllm.local.bars import Bar
from dp_vllm.local.logs import Follower

COLOURS: Final = ("36", "33", "32", "35", "34", "96", "93", "92", "95", "94")
_OURS: Final = "dp-vllm"
_USUAL: Final = "replica 0"
"""As wide as most names."""
_BOLD: Final = "1"
_PLAIN: Final = "\x1b[0m"
_COLOUR_CODE: Final = re.compile(r"\x1b\[[0-9;]*m")
_COLUMNS: Final = 80
"""Of a terminal that does not say how many it has."""
_ERASE: Final = "\x1b[{}F\x1b[J"
"""Go up so many lines, and clear everything from there on."""
_POLL_SECONDS: Final = 0.1
_LAST_WORDS_SECONDS: Final = 2.0
"""How long a terminal that stands still may hold up the end."""


class Terminal:
    """Writes to file descriptor `fd` what is said and what the logs get."""

    def __init__(self, *, fd: int = 1, colours: bool) -> None:
        self._fd = fd
        self._colours = colours
        self._width = len(_USUAL)
        self._next_colours = cycle(COLOURS)
        self._followers: dict[str, tuple[str, Follower, Callable[[str], str]]] = {}
        """With the colour of each and what its lines are passed through, by name."""
        self._said: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._standing: tuple[Bar, ...] = ()
        self._drawn: tuple[Bar, ...] = ()
        """What stands there now."""
        self._drawn_lines = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="terminal", daemon=True)

    def __enter__(self) -> "Terminal":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(_LAST_WORDS_SECONDS)

    def follow(self, name: str, path: Path, redacted: Callable[[str], str] = str) -> None:
        """Show from now on what this log gets, from its beginning, each line `redacted`.

        A log of the same name is shown no more.
        """
        colour = self._followers[name][0] if name in self._followers else next(self._next_colours)
        self._width = max(self._width, len(name))
        self._followers[name] = (colour, Follower(path), redacted)

    def say(self, text: str) -> None:
        """Show one or more lines of the supervisor's own under its name. Never waits."""
        before = self._label(_OURS, _BOLD)
        self.show("\n".join(before + line for line in text.splitlines()))

    def show(self, text: str) -> None:
        """Show a text as it is. Never waits."""
        self._said.put(text)

    def stand(self, lines: Sequence[Bar]) -> None:
        """Keep these bars below everything else, until others are given. Never waits."""
        self._standing = tuple(lines)

    @property
    def can_stand(self) -> bool:
        """Whether something can be kept there: on a terminal that moves its cursor."""
        return os.isatty(self._fd) and os.environ.get("TERM") != "dumb"

    def _label(self, name: str, colour: str) -> str:
        return label(name, self._width, colour if self._colours else "")

    def _run(self) -> None:
        with contextlib.suppress(OSError):  # the terminal is gone, or the reader of the pipe: the run goes on without
            while not self._stop.wait(_POLL_SECONDS):
                self._show(list(self._news()))
            self._standing = ()
            self._show(list(self._news()))

    def _news(self) -> Iterator[str]:
        for name, (colour, follower, redacted) in list(self._followers.items()):  # another thread may add one meanwhile
            before = self._label(name, colour)
            for line in follower.new_lines():
                yield before + shown(redacted(line), colours=self._colours)
        while not self._said.empty():
            yield self._said.get()

    def _show(self, lines: Sequence[str]) -> None:
        standing = self._standing
        if not lines and standing == self._drawn:
            return
        text = _ERASE.format(self._drawn_lines) if self._drawn_lines else ""
        standing_lines: list[str] = []
        if standing:
            size = os.get_terminal_size(self._fd)
            standing_lines = bars.drawn(standing, size.columns or _COLUMNS, size.lines // 2, colours=self._colours)
            lines = [*lines, *standing_lines]
        self._drawn, self._drawn_lines = standing, len(standing_lines)
        text += "".join(f"{line}\n" for line in lines)
        rest = memoryview(text.encode(errors="replace"))
        while rest:
            rest = rest[os.write(self._fd, rest) :]


def label(name: str, width: int, colour: str) -> str:
    """What stands before a line: who wrote it. No colour: an empty text."""
    plain = f"{name:<{width}} | "
    return f"\x1b[{colour}m{plain}{_PLAIN}" if colour else plain


def shown(line: str, *, colours: bool) -> str:
    """A line of a log without the colours that the terminal is not to show, or that it would not leave again."""
    return line + _PLAIN if colours else _COLOUR_CODE.sub("", line)


def wants_colours(environ: Mapping[str, str], *, is_terminal: bool | None = None) -> bool:
    """Colours are for terminals alone, and for none where NO_COLOR is set (https://no-color.org)."""
    if is_terminal is None:
        is_terminal = sys.stdout.isatty()
    return is_terminal and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"
