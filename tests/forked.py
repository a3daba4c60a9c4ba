"""Processes that a `zygote` starts, with what tests need of `subprocess.Popen`."""

import atexit
import functools
import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Final

MODULES: Final = ("dp_vllm.sim", "dp_vllm_gateway", "dp_vllm_operator")
"""Programs that take longer to import than to start."""


class Process:
    """One process, a child of the zygote."""

    def __init__(self, zygote: "Zygote", pid: int) -> None:
        self._zygote = zygote
        self._end = os.pidfd_open(pid)
        self.pid = pid
        self.returncode: int | None = None
        """Its exit status, once it was seen to have ended; the negative number of the signal that killed it."""

    def poll(self) -> int | None:
        """The exit status; None while it runs."""
        if self.returncode is None and select.select([self._end], [], [], 0)[0]:
            self._reap()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit status, once it has ended. Raises subprocess.TimeoutExpired after so many seconds."""
        if self.returncode is None:
            if not select.select([self._end], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
            self._reap()
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Nothing happens if it was seen to have ended."""
        if self.poll() is None:
            signal.pidfd_send_signal(self._end, number)

    def _reap(self) -> None:
        self.returncode = os.waitstatus_to_exitcode(self._zygote.ask({"ended": self.pid}))
        os.close(self._end)


class Zygote:
    """Starts one program as often as it is asked to."""

    def __init__(self, module: str) -> None:
        path = Path(__file__).with_name("zygote.py")
        self._process = subprocess.Popen(
            [sys.executable, "-I", path, module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._turn = threading.Lock()
        atexit.register(self._close)

    def start(self, arguments: list[str], log: Path, env: Mapping[str, str]) -> Process:
        """`python -I -m MODULE arguments`, whose output is added to `log`."""
        told = {"argv": arguments, "log": str(log), "env": dict(env), "cwd": os.getcwd()}
        return Process(self, self.ask(told))

    def ask(self, told: Mapping[str, object]) -> int:
        assert self._process.stdin and self._process.stdout
        with self._turn:
            self._process.stdin.write(json.dumps(told) + "\n")
            self._process.stdin.flush()
            return int(self._process.stdout.readline())

    def _close(self) -> None:
        with self._process:
            pass


zygote = functools.cache(Zygote)
"""The one of a module, in this process of the test run."""
