"""Log files that other processes append to: read what is new, look at the end, keep them from filling the disk.

It must not know whose logs they are, nor where the lines are shown.
"""

import contextlib
import os
import re
import shutil
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from dp_vllm import own_files

KEPT: Final = 3
"""How many older logs stay beside the current one, as NAME.1 (the newest) to NAME.3."""

ROTATE_BYTES: Final = 64 << 20
"""Beyond this size a log is rotated."""

LAG_BYTES: Final = 1 << 20
"""A follower that is further behind than this leaves lines out: nobody reads a megabyte as it scrolls by."""

_TAIL_BYTES: Final = 64 << 10

# Anything but tabs and colours could move the cursor, or do worse, in the terminal that shows it.
_UNSAFE: Final = re.compile(r"\x1b(?!\[[0-9;]*m)|[\x00-\x08\x0b-\x1a\x1c-\x1f\x7f-\x9f]")


def rotate(path: Path) -> None:
    """Make the log begin anew, keeping what it holds; safe while another process appends to it.

    The file is copied and then cut, because its writer keeps it open. What is written in between is lost. Raises
    OSError with a sentence for what `own_files` does not open.
    """
    if size(path) == 0:
        return
    copy = path.with_name(path.name + ".copy")
    with open(own_files.read_write(path), "r+b") as log:
        mode = stat.S_IMODE(os.fstat(log.fileno()).st_mode)
        with open(own_files.created(copy, mode), "wb") as file:
            shutil.copyfileobj(log, file)
        for number in range(KEPT, 1, -1):
            with contextlib.suppress(FileNotFoundError):
                _numbered(path, number - 1).replace(_numbered(path, number))
        os.ftruncate(log.fileno(), 0)
    copy.replace(_numbered(path, 1))


def rotate_if_large(path: Path, limit_bytes: int = ROTATE_BYTES) -> None:
    """Rotate a log that has grown beyond `limit_bytes`."""
    if size(path) > limit_bytes:
        rotate(path)


def _numbered(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}")


def append(path: Path, line: str) -> None:
    """Add a line of ours to a log that a program of ours writes."""
    with open(own_files.appended(path), "a", encoding="utf-8") as file:
        file.write(line + "\n")


def size(path: Path) -> int:
    """In bytes; 0 if there is no log yet."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def last_lines(path: Path, since: int = 0) -> list[str]:
    """The last lines, from byte `since` on at most; empty if there is no log of ours yet."""
    try:
        with own_files.opened(path) as file:
            end = file.seek(0, os.SEEK_END)
            begin = since if since <= end else 0  # it was rotated meanwhile
            file.seek(max(begin, end - _TAIL_BYTES))
            return [_shown(line) for line in file.read().split(b"\n") if line]
    except OSError:
        return []


def begin_of_last(path: Path, lines: int) -> int:
    """At which byte the last so many lines begin; 0 if there are not so many, or no log of ours yet."""
    try:
        file = own_files.opened(path)
    except OSError:
        return 0
    with file:
        at = file.seek(0, os.SEEK_END)
        wanted = lines + 1  # the line feed before the first of them
        while at > 0:
            begin = max(0, at - _TAIL_BYTES)
            file.seek(begin)
            block = file.read(at - begin)
            count = block.count(b"\n")
            if count >= wanted:
                for _ in range(wanted):
                    block = block[: block.rindex(b"\n")]
                return begin + len(block) + 1
            wanted -= count
            at = begin
    return 0


def last_words(lines: Sequence[str]) -> str:
    """The last line with words in it, without the rules that a trace of grouped errors draws around it."""
    stripped = (line.strip(" |+-") for line in reversed(lines))
    return next((line for line in stripped if any(map(str.isalpha, line))), "")


class Follower:
    """Reads a log as it grows."""

    def __init__(self, path: Path, since: int = 0, *, lag_bytes: float = LAG_BYTES) -> None:
        """Of the lines that are there, those from byte `since` on are new too."""
        self.path = path
        self._lag_bytes = lag_bytes
        self._at = since
        self._begun = b""
        """The beginning of a line whose end was not written yet."""
        self._older = self._rotation()

    def new_lines(self) -> Iterator[str]:
        """The whole lines that were appended since the last call."""
        try:
            with own_files.opened(self.path) as file:
                end = file.seek(0, os.SEEK_END)
                older = self._rotation()
                if end < self._at or older != self._older:
                    self._at, self._begun, self._older = 0, b"", older
                if end - self._at > self._lag_bytes:
                    yield f"... {(end - self._at) >> 20} MiB are left out here; they are in {self.path}"
                    self._at, self._begun = end - _TAIL_BYTES, b""
                file.seek(self._at)
                data = file.read(end - self._at)
        except OSError:  # there is none yet, or another user put something in its place
            return
        self._at += len(data)
        *lines, begun = (self._begun + data).split(b"\n")
        # A progress bar writes itself again and again into one line: its newest states are enough.
        self._begun = b"\r".join(begun.split(b"\r")[-2:])[-_TAIL_BYTES:]
        yield from map(_shown, lines)

    def _rotation(self) -> int:
        """Another number after each rotation; the size alone does not tell when the new log has grown as long."""
        try:
            return _numbered(self.path, 1).stat().st_ino
        except FileNotFoundError:
            return 0


def _shown(line: bytes) -> str:
    """What a terminal would show of the line in the end."""
    newest = line.rstrip(b"\r").rpartition(b"\r")[2]
    return _UNSAFE.sub("", newest.decode(errors="replace"))
