"""`dp-vllm serve`, started as a user does, with the simulated engine or the real one, and where to see what it does."""

import contextlib
import http.client
import json
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import programs
import psutil
import real_engine
from ports import free_port

from dp_vllm.local import run
from dp_vllm.local.run_directory import RunDirectory

MODEL = "demo/model"
"""What clients call the model, whichever engine serves it."""

DP_VLLM = str(Path(sys.executable).with_name("dp-vllm"))


@dataclass(frozen=True, slots=True)
class Served:
    """A running deployment."""

    program: programs.Program
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

    def engine(self, replica: str) -> psutil.Process:
        """The process of one replica's engine that speaks HTTP."""
        ending = f"replica-{replica}.sock"
        for process in self.descendants():
            words = programs.command_line(process)
            if words[-2:-1] == ["--uds"] and words[-1].endswith(ending):
                return process
        raise AssertionError(f"no engine listens on {ending}\n{self.program.output()}")

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

    def await_ready(self, replicas: int, *, times: int = 1) -> None:
        """Wait until it has said so many times that all of so many replicas are ready."""
        said = f"ready: {replicas} of {replicas}"
        ended = self.program.process.poll
        programs.wait_until(
            lambda: ended() is not None or self.program.output().count(said) >= times,
            lambda: f"{said}\n{self.program.output()}",
            real_engine.START_SECONDS,
        )
        assert ended() is None, f"it ended with {ended()}\n{self.program.output()[-3000:]}"


@contextlib.contextmanager
def serve(
    *flags: str,
    engine: str = "sim",
    replicas: int = 1,
    ready: bool = True,
    environ: Mapping[str, str] | None = None,
) -> Iterator[Served]:
    """Serve MODEL on a TCP port of its own; entered when all replicas are ready and used, if `ready`.

    `engine` is `sim`, `vllm`, or a path; only vLLM may see GPUs.
    """
    port = free_port()
    argv = [DP_VLLM, "serve", *_model(engine), "--engine", engine, "-dp", str(replicas)]
    with (
        tempfile.TemporaryDirectory(prefix="dpv-", ignore_cleanup_errors=True) as folder,  # short, for the sockets
        _environment(engine) as variables,
    ):
        base = Path(folder)
        argv += ["--host", "127.0.0.1", "--port", str(port), "--log-dir", str(base / "logs"), *flags]
        env = {**variables, "XDG_RUNTIME_DIR": str(base), **(environ or {})}
        with programs.running(argv, base / "output", env=env) as program:
            served = Served(program, RunDirectory(base / "dp-vllm" / str(port), base / "logs"), port)
            if ready:
                served.await_ready(replicas)
                programs.wait_until(lambda: served.serves(*range(replicas)), program.output)
            with real_engine.ended_in_order(program) if engine == "vllm" else contextlib.nullcontext():
                yield served


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def _model(engine: str) -> list[str]:
    if engine == "vllm":
        return [str(real_engine.model()), "--served-model-name", MODEL, *real_engine.SMALL]
    return [MODEL]


def _environment(engine: str) -> contextlib.AbstractContextManager[dict[str, str]]:
    if engine == "vllm":
        return real_engine.environment()
    return contextlib.nullcontext({"CUDA_VISIBLE_DEVICES": ""})
