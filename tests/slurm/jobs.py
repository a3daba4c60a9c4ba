"""`dp-vllm serve demo/model --engine sim ...` in a Slurm job, and where to look at what it does."""

import contextlib
import http.client
import json
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import wire
from programs import wait_until
from slurm.bed import Bed

SERVE = (sys.executable, "-I", "-m", "dp_vllm", "serve", "demo/model", "--engine", "sim")
TWO = ("--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=4", "--label")
CHAT = "/v1/chat/completions"
START_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Job:
    """One srun with `dp-vllm serve`."""

    bed: Bed
    process: subprocess.Popen[bytes]
    log: Path
    id: str

    @property
    def logs(self) -> Path:
        return self.bed.folder / f"home/.local/state/dp-vllm/job-{self.id}.0"

    @property
    def url(self) -> str:
        """Where its endpoint is, as the file says that it leaves for that; its host name cannot be resolved here."""
        port = (self.logs / "endpoint").read_text().strip().rpartition(":")[2].removesuffix("/v1")
        return f"http://127.0.0.1:{port}"

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def replicas(self) -> dict[str, dict[str, Any]]:
        """What the gateway knows of them."""
        with contextlib.suppress(OSError, ValueError):
            found: dict[str, dict[str, Any]] = self._state()["replicas"]
            return found
        return {}

    def _state(self) -> dict[str, Any]:
        path = min(self.bed.run_directories.glob(f"dp-vllm/job-{self.id}.0*/admin.sock"))  # of the first node
        connection = http.client.HTTPConnection("localhost", timeout=5)
        connection.sock = socket.socket(socket.AF_UNIX)
        with contextlib.closing(connection):
            connection.sock.connect(str(path))
            connection.request("GET", "/state")
            found: dict[str, Any] = json.loads(connection.getresponse().read())
            return found

    def serves(self, count: int) -> bool:
        """Whether the gateway sends requests to so many."""
        return len([each for each in self.replicas().values() if each["available"]]) == count

    def wait_for(self, count: int) -> None:
        """Until so many replicas are used."""
        wait_until(
            lambda: self.process.poll() is not None or self.serves(count),
            lambda: f"{count} replicas: {self.replicas()}\n{self.output()}",
            seconds=START_SECONDS,
        )
        assert self.process.poll() is None, self.output()


def chat(served: Job, text: str, tokens: int = 8) -> wire.Answer:
    body = {"model": "demo/model", "messages": [{"role": "user", "content": text}], "max_tokens": tokens}
    return wire.ask(served.url, "POST", CHAT, body)


@contextlib.contextmanager
def job(bed: Bed, *words: str, flags: Sequence[str] = ()) -> Iterator[Job]:
    """`srun WORDS dp-vllm serve FLAGS`, until the end of the block."""
    log = bed.folder / "log" / f"job-{len(list((bed.folder / 'log').iterdir()))}"
    before = set(bed.jobs())
    with log.open("wb") as output:
        process = subprocess.Popen(
            ("srun", *words, *SERVE, *flags),
            env=bed.environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_until(lambda: bool(set(bed.jobs()) - before) or process.poll() is not None, "Slurm has the job")
        new = set(bed.jobs()) - before
        yield Job(bed, process, log, new.pop() if new else "")
    finally:
        # Not by a signal to srun, which has Slurm kill everything at once.
        bed.command("scancel", "--user=root")
        try:
            process.wait(30)
        finally:
            process.kill()
            process.wait()
