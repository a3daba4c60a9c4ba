"""Starts `dp-vllm serve`, with the simulated engine or with the real one, for tests that ask both the same."""

import contextlib
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import programs
import psutil
import real_engine

MODEL = real_engine.NAME
"""What clients call the model, whichever engine serves it."""

DP_VLLM = str(Path(sys.executable).with_name("dp-vllm"))


@contextlib.contextmanager
def serve(log_dir: Path, engine: str, *flags: str, replicas: int = 1) -> Iterator[programs.Program]:
    """`dp-vllm serve` on a TCP port of its own, all replicas ready; `engine` is `sim` or `vllm`."""
    port = programs.free_port()
    argv = [DP_VLLM, "serve", *_model(engine), "--engine", engine, "-dp", str(replicas), *flags]
    argv += ["--host", "127.0.0.1", "--port", str(port), "--log-dir", str(log_dir / "logs")]
    url = f"http://127.0.0.1:{port}"
    with (
        tempfile.TemporaryDirectory(prefix="dpv-") as runs,  # short, because the sockets' paths are to fit
        _environment(engine) as variables,
        programs.running(
            argv, log_dir / f"serve-{port}.log", url=url, env={**variables, "XDG_RUNTIME_DIR": runs}
        ) as program,
    ):
        await_ready(program, replicas)
        with real_engine.ended_in_order(program):
            yield program


def await_ready(program: programs.Program, replicas: int, times: int = 1) -> None:
    """Wait until the program has said so many times that all of so many replicas are ready."""
    said = f"ready: {replicas} of {replicas}"
    ended = program.process.poll
    programs.wait_until(
        lambda: ended() is not None or program.output().count(said) >= times, said, real_engine.START_SECONDS
    )
    assert ended() is None, f"it ended with {ended()}\n{program.output()[-3000:]}"


def engine_of(program: programs.Program, replica: str) -> psutil.Process:
    """The process of one replica's engine that speaks HTTP."""
    socket = f"replica-{replica}.sock"
    for process in psutil.Process(program.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if process.cmdline()[-2:-1] == ["--uds"] and process.cmdline()[-1].endswith(socket):
                return process
    raise AssertionError(f"no engine listens on {socket}\n{program.output()}")


def _model(engine: str) -> list[str]:
    if engine == "sim":
        return ["demo/model", "--served-model-name", MODEL]
    return [str(real_engine.model()), *real_engine.FLAGS]


def _environment(engine: str) -> contextlib.AbstractContextManager[dict[str, str]]:
    return real_engine.environment() if engine == "vllm" else contextlib.nullcontext({})
