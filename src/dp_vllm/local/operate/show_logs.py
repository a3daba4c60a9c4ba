"""`dp-vllm logs`: the logs of a run, or of the last run of that name, each line under the name of who wrote it."""

import contextlib
import os
import sys
import time
from collections.abc import Collection, Iterator
from itertools import cycle
from pathlib import Path
from typing import Final

import click

from dp_vllm import endpoints
from dp_vllm.errors import UserError
from dp_vllm.local import logs, run, runs
from dp_vllm.local.logs import Follower
from dp_vllm.local.operate import options
from dp_vllm.local.redact import Redactor
from dp_vllm.local.run_directory import run_directory
from dp_vllm.local.runs import Found
from dp_vllm.local.terminal import COLOURS, label, shown, wants_colours

_POLL_SECONDS: Final = 0.1
_GATEWAY: Final = "gateway"


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.argument("who", nargs=-1, metavar="[REPLICA|gateway ...]")
@click.option("-f", "--follow", is_flag=True, help="Go on with what is written from now on, until the run ends.")
@click.option(
    "-n", "--lines", type=click.IntRange(0), default=50, show_default=True, help="So many of each log's last lines."
)
@options.name_option
def main(who: tuple[str, ...], follow: bool, lines: int, name: str | None) -> int:
    """The last lines of the gateway's log and of the replicas', also of a run that has ended.

    The logs are files in the directory that `dp-vllm status` names, with what was rotated away beside them.
    """
    found = _found(name)
    reader = _Reader(found, who, lines)
    with contextlib.suppress(BrokenPipeError, KeyboardInterrupt):
        ended = not follow
        while True:
            for line in reader.new_lines():
                sys.stdout.write(line + "\n")
            sys.stdout.flush()
            if ended:
                return 0
            ended = not _runs(found)
            time.sleep(_POLL_SECONDS)
    with contextlib.suppress(OSError):  # nobody reads: what the interpreter would still flush is not wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _found(name: str | None) -> Found:
    """The run that is meant; one that has ended has no directory any more, but its logs."""
    try:
        return runs.the_one(name, os.environ)
    except UserError:
        directory = run_directory(name, os.environ) if name is not None else None
        if directory is None or not directory.logs.is_dir():
            raise
        return Found(directory, None)


def _runs(found: Found) -> bool:
    record = run.read(found.directory)
    return record is not None and record.supervisor.alive


class _Reader:
    """The logs of a run, those among them that come while it reads."""

    def __init__(self, found: Found, who: Collection[str], lines: int) -> None:
        """`who` are the gateway or replicas by name; all if it is empty. Raises UserError for one that has no log."""
        self._found = found
        self._who = who
        self._colours = cycle(COLOURS) if wants_colours(os.environ) else cycle([""])
        self._followers: dict[str, tuple[str, Follower]] = {}
        self._redacted = Redactor((), os.environ).text
        self._look(lines)
        unknown = next((one for one in who if one not in self._followers), None)
        if unknown is not None:
            directory = found.directory.logs
            there = ", ".join(_logs(directory)) or "nobody"
            raise UserError(f"there is no log of {unknown} in {directory}; there are logs of {there}")

    def new_lines(self) -> Iterator[str]:
        """Since the last call, each with its name before it."""
        self._look(None)
        width = max(map(len, map(_title, self._followers)), default=0)
        for name, (colour, follower) in self._followers.items():
            before = label(_title(name), width, colour)
            for line in follower.new_lines():
                yield before + shown(self._redacted(line), colours=bool(colour))

    def _look(self, lines: int | None) -> None:
        """Take in the logs that are new, from their last lines on; None: from their beginning."""
        wanted = self._who or _present(self._found)
        for name, path in _logs(self._found.directory.logs).items():
            if name not in self._followers and (not wanted or name in wanted):
                since = 0 if lines is None else logs.begin_of_last(path, lines)
                self._followers[name] = (next(self._colours), Follower(path, since, lag_bytes=float("inf")))


def _present(found: Found) -> Collection[str]:
    """Who is part of the run now; empty if it has ended. Beside their logs are those of replicas that have left."""
    try:
        return [_GATEWAY, *(one.name for one in endpoints.read(found.directory.endpoints).endpoints)]
    except (OSError, UserError):
        return ()


def _logs(directory: Path) -> dict[str, Path]:
    """By the name of who wrote them: the gateway, then the replicas by number."""
    replicas = {path.stem.removeprefix("replica-"): path for path in directory.glob("replica-*.log")}
    gateway = directory / "gateway.log"
    first = {_GATEWAY: gateway} if gateway.exists() else {}
    return first | dict(sorted(replicas.items(), key=lambda item: (len(item[0]), item[0])))


def _title(name: str) -> str:
    return name if name == _GATEWAY else f"replica {name}"
