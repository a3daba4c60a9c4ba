"""Operators that a test kills as hard as it wants."""

import asyncio
import contextlib
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import forked
import programs
from ports import free_port

START_SECONDS: Final = 40.0


@dataclass(frozen=True, slots=True)
class Running:
    """One operator's process."""

    process: forked.Process
    url: str
    log: Path

    @classmethod
    def start(cls, folder: Path, kubeconfig: Path, *flags: str, identity: str) -> Self:
        """One more; `identity` is its name in the Lease, a pod's in a cluster."""
        port = free_port()
        log = folder / f"operator-{port}.log"
        env = {**os.environ, "KUBECONFIG": str(kubeconfig), "POD_NAME": identity}
        process = forked.zygote("dp_vllm_operator").start(["--health-port", str(port), *flags], log, env)
        return cls(process, f"http://127.0.0.1:{port}", log)

    def kill(self) -> None:
        """At once, without a last word. Nothing happens if it has ended."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def end(self) -> None:
        """As Kubernetes ends a pod."""
        self.process.send_signal(signal.SIGTERM)

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    async def ready(self) -> Self:
        """Wait until it says that the API server answers."""
        async with asyncio.timeout(START_SECONDS):
            while not await asyncio.to_thread(programs.answers, f"{self.url}/readyz"):
                assert self.alive, self.output()
                await asyncio.sleep(0.05)
        return self
