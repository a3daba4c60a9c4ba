"""Finds the runs of this user by their directories, and the one that a command means."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dp_vllm.errors import UserError
from dp_vllm.local import run
from dp_vllm.local.run import Record
from dp_vllm.local.run_directory import RunDirectory, homes, run_directory

_START_ONE = "start one with `dp-vllm serve`"


@dataclass(frozen=True, slots=True)
class Found:
    """A run's directory, and what stands in it of its processes."""

    directory: RunDirectory
    record: Record | None
    """None before the supervisor has written it."""

    @property
    def name(self) -> str:
        """The run's name."""
        return self.directory.name

    @property
    def is_gone(self) -> bool:
        """Whether its supervisor was killed, so that nobody tidied up after it."""
        return self.record is not None and not self.record.supervisor.alive

    def why_gone(self) -> str:
        """A sentence for a run that is gone."""
        pid = self.record.supervisor.pid if self.record else "unknown"
        return (
            f"the run {self.name} is gone: its supervisor (process {pid}) was killed, and its engines were ended with "
            f"it; `dp-vllm logs --name {self.name}` has their last words, and `dp-vllm serve` starts it anew"
        )


def every(environ: Mapping[str, str]) -> list[Found]:
    """All runs of this user, by name."""
    found: dict[str, Found] = {}
    for home in homes(environ, os.getuid()):
        for path in sorted(home.iterdir()) if _is_ours(home) else ():
            if path.name not in found and _is_run(path):
                found[path.name] = _found(path, environ)
    return [found[name] for name in sorted(found, key=lambda name: (len(name), name))]


def running(environ: Mapping[str, str]) -> dict[str, Record]:
    """Those whose supervisor is alive, by name."""
    return {one.name: one.record for one in every(environ) if one.record is not None and not one.is_gone}


def the_one(name: str | None, environ: Mapping[str, str], otherwise: str = "") -> Found:
    """The run of that name; without one the only run that there is. A run that is gone counts where nothing else does.

    Raises UserError, which names those that there are, and says what else the user can do: `otherwise`.
    """
    there = every(environ)
    if name is not None:
        run_directory(name, environ)  # raises BadSettings for what cannot be a name
        for one in there:
            if one.name == name:
                return one
        raise UserError(f"there is no run {name}; {_hint(there)}{otherwise}")
    living = [one for one in there if not one.is_gone] or there
    if len(living) == 1:
        return living[0]
    why = f"there are {len(living)} runs, so say which" if living else "there is no run of yours"
    raise UserError(f"{why}; {_hint(living)}{otherwise}")


def demand_there(found: Found) -> None:
    """Raise UserError if the run is gone."""
    if found.is_gone:
        raise UserError(found.why_gone())


def _hint(there: Sequence[Found]) -> str:
    return f"give --name {' or '.join(one.name for one in there)}" if there else _START_ONE


def _is_ours(path: Path) -> bool:
    return path.is_dir() and path.stat().st_uid == os.getuid()


def _is_run(path: Path) -> bool:
    return any((path / name).exists() for name in ("run.json", "admin.sock"))


def _found(path: Path, environ: Mapping[str, str]) -> Found:
    usual = run_directory(path.name, environ)
    directory = RunDirectory(path, usual.logs)
    record = run.read(directory)
    if record is not None and record.logs:
        directory = replace(directory, logs=Path(record.logs))
    return Found(directory, record)
