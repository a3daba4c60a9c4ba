"""Writes a folder for each end of an engine that nobody asked for, and keeps the newest of them.

    LOGS/crashes/20261121-220000-replica-1/report.txt      what a person reads first
                                          /report.json     the same for programs (`crash_report.Report`)
                                          /log             the last lines that it wrote
                                          /stacks.txt      where its Python processes were, if it hung

It must not know why or when engines are started. Whatever cannot be written is left out: no engine waits for that.
"""

import contextlib
import shutil
import signal
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

import msgspec

from dp_vllm import __version__, own_files
from dp_vllm.engine import causes
from dp_vllm.engine.causes import Cause
from dp_vllm.errors import UserError
from dp_vllm.local import crash_report
from dp_vllm.local.crash_report import Life, Report
from dp_vllm.local.deployment import Replica
from dp_vllm.local.process import Program
from dp_vllm.local.redact import Redactor

KEPT: Final = 20
"""Folders of one run's name; the oldest go."""

_READ_BY_ENGINES: Final = ("CUDA", "HF_", "HSA_", "LD_", "NCCL_", "OMP_", "PYTHON", "PYTORCH", "TORCH", "VLLM_")


class Crashes:
    """Makes the folders of one replica."""

    def __init__(self, directory: Path, replica: Replica, engine: str, program: Program) -> None:
        """`directory`: where all folders of the run are."""
        self._directory = directory
        self._replica = replica
        self._engine = engine
        self._program = program
        self._redact = Redactor(program.argv, program.environment)

    def began(self, program: Program) -> None:
        """From now on this is what runs."""
        self._program = program
        self._redact = Redactor(program.argv, program.environment)

    def write(self, life: Life) -> tuple[Cause | None, Path | None]:
        """Why it ended, and the folder that was made; None if it could not be."""
        cause = causes.cause(life.evidence)
        cause = cause and replace(cause, what=self._redact.text(cause.what))
        folder = None
        with contextlib.suppress(OSError, UserError):
            folder = self._make_folder(life.ended_at)
            _write(folder / "log", self._redact.text("".join(f"{line}\n" for line in life.lines)))
            if life.stacks:
                _write(folder / "stacks.txt", self._redact.text(life.stacks))
            self._write_report(folder, self._report(life, cause))
            _remove_oldest(self._directory)
        return cause, folder

    def add_gpu_memory(self, folder: Path, text: str) -> None:
        """Say what was found of the memory of its GPUs after the end."""
        if not text:
            return
        with contextlib.suppress(OSError, msgspec.DecodeError):
            report = msgspec.json.decode((folder / "report.json").read_bytes(), type=Report)
            self._write_report(folder, replace(report, gpu_memory=self._redact.text(text)))

    def _make_folder(self, ended_at: float) -> Path:
        name = f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime(ended_at))}-replica-{self._replica.name}"
        own_files.make_directory(self._directory)
        number = 1
        while True:
            folder = self._directory / (name if number == 1 else f"{name}-{number}")
            try:
                folder.mkdir(mode=0o700)
                return folder
            except FileExistsError:
                number += 1

    def _report(self, life: Life, cause: Cause | None) -> Report:
        return Report(
            replica=self._replica.name,
            gpus=self._replica.gpus,
            engine=self._engine,
            dp_vllm=__version__,
            command=self._redact.words(self._program.argv),
            environment=self._redact.environment(_of_interest(self._program.environment)),
            start=life.number,
            ended_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(life.ended_at)),
            how=self._redact.text(life.how),
            exit_code=life.exit.code if life.exit else None,
            signal=_signal_name(life.exit.signal if life.exit else None),
            ran_seconds=round(life.seconds, 1),
            ready_seconds=None if life.ready_seconds is None else round(life.ready_seconds, 1),
            oom_kills=life.oom_kills,
            reason=cause.reason if cause else "",
            cause=cause.what if cause else "",
            fix=cause.fix if cause else "",
        )

    def _write_report(self, folder: Path, report: Report) -> None:
        lines = (folder / "log").read_text(encoding="utf-8").splitlines()
        beside = sorted({"report.json", *(path.name for path in folder.iterdir())} - {"report.txt"})
        _write(folder / "report.json", msgspec.json.format(msgspec.json.encode(report)).decode() + "\n")
        _write(folder / "report.txt", crash_report.page(report, lines, beside))


def _of_interest(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: environment[name] for name in sorted(environment) if name.startswith(_READ_BY_ENGINES)}


def _signal_name(number: int | None) -> str | None:
    if number is None:
        return None
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


def _write(path: Path, text: str) -> None:
    """Replace the file at once; only its owner may read it."""
    own_files.replace(path, text.encode())


def _remove_oldest(directory: Path) -> None:
    # In the order of their times; what else somebody put there stays.
    for folder in sorted(directory.glob("????????-??????-replica-*"))[:-KEPT]:
        shutil.rmtree(folder, ignore_errors=True)
