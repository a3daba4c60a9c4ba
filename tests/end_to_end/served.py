"""`dp-vllm serve demo/model --engine sim ...`, started as a user does, and where to look at what it does."""

import contextlib
import http.client
import json
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from programs import Program, free_port, python, running, wait_until

from dp_vllm.local import run
from dp_vllm.local.run_directory import RunDirectory

MODEL = "demo/model"


@dataclass(frozen=True, slots=True)
class Served:
    """A running deployment."""

    program: Program
    directory: RunDirectory
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def serves(self, *replicas: int) -> bool:
        """Whether the gateway sends requests to these replicas."""
        known = self.state().get("replicas", {})
        return all(known.get(str(replica), {}).get("available") for replica in replicas)

    def pids(self) -> dict[str, int]:
        """Of the programs that run: `gateway`, and the replicas by name."""
        record = run.read(self.directory)
        return {name: child.program.pid for name, child in record.children.items()} if record else {}

    def descendants(self) -> list[psutil.Process]:
        return psutil.Process(self.program.pid).children(recursive=True)

    def state(self) -> dict[str, Any]:
        """The gateway's account of itself; empty while it does not answer."""
        connection = http.client.HTTPConnection("localhost")
        connection.sock = socket.socket(socket.AF_UNIX)
        with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
            connection.sock.connect(str(self.directory.admin_socket))
            connection.request("GET", "/state")
            answer: dict[str, Any] = json.loads(connection.getresponse().read())
            return answer
        return {}

    def in_flight(self, replica: int | None = None) -> int | None:
        """Requests at one replica, or in the whole gateway."""
        state = self.state()
        found = state if replica is None else state.get("replicas", {}).get(str(replica), {})
        return found.get("in_flight")


@contextlib.contextmanager
def serve(*flags: str, replicas: int, ready: bool = True, environ: Mapping[str, str] | None = None) -> Iterator[Served]:
    """Serve the demo model with simulated engines; entered when all replicas are used, if `ready`."""
    base = Path(tempfile.mkdtemp(prefix="dpv-"))  # short, because the sockets' paths are to fit
    port = free_port()
    argv = python("-m", "dp_vllm", "serve", MODEL, "--engine", "sim", "-dp", str(replicas))
    argv += ["--host", "127.0.0.1", "--port", str(port), "--log-dir", str(base / "logs"), *flags]
    directory = RunDirectory(base / "dp-vllm" / str(port), base / "logs")
    environment = {"XDG_RUNTIME_DIR": str(base), "CUDA_VISIBLE_DEVICES": "", **(environ or {})}
    try:
        with running(argv, base / "output", env=environment) as program:
            served = Served(program, directory, port)
            if ready:
                wait_until(
                    lambda: program.process.poll() is not None or served.serves(*range(replicas)),
                    "all replicas are used",
                )
                assert program.process.poll() is None, program.output()
            yield served
    finally:
        shutil.rmtree(base)


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def kill(pid: int) -> None:
    os.kill(pid, 9)
