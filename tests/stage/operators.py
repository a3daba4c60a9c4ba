"""Operators as processes of their own, started within moments and killed as hard as a test wants."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import programs

START_SECONDS: Final = 40.0


@dataclass(frozen=True, slots=True)
class Running:
    """One operator's process."""

    pid: int
    url: str
    log: Path

    def kill(self) -> None:
        """At once, without a last word. Nothing happens if it has ended."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def end(self) -> None:
        """As Kubernetes ends a pod."""
        os.kill(self.pid, signal.SIGTERM)

    @property
    def alive(self) -> bool:
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    async def ready(self) -> Self:
        """Wait until it says that the API server answers."""
        async with asyncio.timeout(START_SECONDS):
            while not await asyncio.to_thread(programs.answers, f"{self.url}/readyz"):
                assert self.alive, self.output()
                await asyncio.sleep(0.05)
        return self


class Operators:
    """Makes them. See `zygote`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        zygote = Path(__file__).with_name("zygote.py")
        self._zygote = subprocess.Popen(
            [sys.executable, "-I", str(zygote)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def start(self, kubeconfig: Path, *flags: str, identity: str) -> Running:
        """One more; `identity` is its name in the Lease, a pod's in a cluster."""
        assert self._zygote.stdin and self._zygote.stdout
        port = programs.free_port()
        log = self._folder / f"operator-{port}.log"
        env = {"KUBECONFIG": str(kubeconfig), "POD_NAME": identity}
        argv = ["--health-port", str(port), *flags]
        self._zygote.stdin.write(json.dumps({"argv": argv, "env": env, "log": str(log)}) + "\n")
        self._zygote.stdin.flush()
        pid = int(self._zygote.stdout.readline())
        return Running(pid, f"http://127.0.0.1:{port}", log)

    def close(self) -> None:
        assert self._zygote.stdin and self._zygote.stdout
        self._zygote.stdin.close()
        self._zygote.wait(10)
        self._zygote.stdout.close()


@contextlib.contextmanager
def operators(folder: Path) -> Iterator[Operators]:
    made = Operators(folder)
    try:
        yield made
    finally:
        made.close()
