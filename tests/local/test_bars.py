"""How far starts are, below the lines of a terminal."""

import os
import pty
import re
import termios
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from programs import wait_until

from dp_vllm.local.bars import Bar, drawn
from dp_vllm.local.terminal import Terminal

TWO = [Bar("0", "loading weights", 40), Bar("1", "waiting for replica 0, which compiles it")]


def test_each_start_is_a_line_that_fits() -> None:
    lines = drawn(TWO, 60, 10, colours=False)
    assert len(lines) == 2 and max(map(len, lines)) <= 60
    assert lines[0].startswith("replica 0 ") and lines[0].endswith(" loading weights, 40 %")
    assert lines[1].startswith("replica 1 ") and "waiting for" in lines[1]


def test_more_than_there_is_room_for_are_counted() -> None:
    lines = drawn([Bar(str(number), "loading weights") for number in range(64)], 80, 10, colours=False)
    assert len(lines) == 11 and lines[-1].startswith("and 54 more")


class Screen:
    """A terminal, and what was written to it."""

    def __init__(self) -> None:
        self._master, self.fd = pty.openpty()
        termios.tcsetwinsize(self.fd, (24, 60))
        self._bytes = b""
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        while True:
            try:
                self._bytes += os.read(self._master, 65_536)
            except OSError:
                return

    def close(self) -> None:
        os.close(self.fd)

    def shown(self) -> list[str]:
        """The lines that stand there: a cursor that goes up clears what was below."""
        lines: list[str] = []
        text = self._bytes.decode(errors="replace").replace("\r", "")
        for part in re.split(r"(\x1b\[\d+F)\x1b\[J", text):
            if up := re.fullmatch(r"\x1b\[(\d+)F", part):
                del lines[-int(up[1]) :]
            else:
                lines += part.split("\n")[:-1]
        return lines


@pytest.fixture
def screen() -> Iterator[Screen]:
    made = Screen()
    yield made
    made.close()


def test_bars_stay_below_the_lines_and_go_with_the_last_start(screen: Screen, tmp_path: Path) -> None:
    with Terminal(fd=screen.fd, colours=False) as terminal:
        assert terminal.can_stand
        terminal.stand(TWO)
        wait_until(lambda: len(screen.shown()) == 2, "the bars stand")
        terminal.say("hello")
        terminal.stand([Bar("1", "loading weights", 10)])
        wait_until(lambda: len(screen.shown()) == 2 and "10 %" in screen.shown()[1], lambda: str(screen.shown()))
        assert screen.shown()[0] == "dp-vllm   | hello"
        terminal.say("bye")
    wait_until(lambda: screen.shown() == ["dp-vllm   | hello", "dp-vllm   | bye"], lambda: str(screen.shown()))


def test_nothing_stands_in_a_file(tmp_path: Path) -> None:
    with (tmp_path / "shown").open("wb") as file:
        assert not Terminal(fd=file.fileno(), colours=False).can_stand
