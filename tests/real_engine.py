"""The real vLLM on this machine's CPU: where `make test-vllm` put it, and the settings that make it small and quick.

Only tests marked `vllm` may use this. They are many times slower than those before the simulated engine: an engine
takes 15 to 30 seconds to start, 1 GB of memory and a core.
"""

import contextlib
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import programs
from ports import free_port

DIRECTORY_VARIABLE: Final = "DP_VLLM_TEST_VLLM"
"""Environment variable in which `tests/vllm/run.py` names the directory that it filled: `venv/` and `model/`."""

START_SECONDS: Final = 240.0
NAME: Final = "tiny"

SMALL: Final = (
    "--enforce-eager",  # no torch.compile: a start takes a third of the time
    "--kv-cache-memory-bytes",
    "128M",  # 131,072 tokens of this model; by default an engine reserves 92 % of the memory
    "--dtype",
    "float32",  # in bfloat16 a short prompt ends vLLM 0.32 where the CPU has AMX (illegal instruction in its attention)
)
FLAGS: Final = ("--served-model-name", NAME, *SMALL)

VARIABLES: Final = {
    "OMP_NUM_THREADS": "1",  # more threads than cores make it ten times slower
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # by default every engine binds itself to core 0
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # one process and 490 MB less for each engine
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
}


def directory() -> Path:
    """Where vLLM and the model are."""
    try:
        return Path(os.environ[DIRECTORY_VARIABLE])
    except KeyError:
        raise AssertionError("tests marked `vllm` need the engine that `make test-vllm` installs") from None


def python() -> Path:
    """The Python that can import vllm."""
    return directory() / "venv" / "bin" / "python"


def vllm() -> Path:
    """The `vllm` command."""
    return directory() / "venv" / "bin" / "vllm"


def model() -> Path:
    """A tiny model with random weights, a tokenizer and a chat template."""
    return directory() / "model"


@contextlib.contextmanager
def environment() -> Iterator[dict[str, str]]:
    """What an engine finds in its environment besides ours; what it leaves in its temporary directory goes with it."""
    with tempfile.TemporaryDirectory(prefix="vllm-") as temporary:
        path = f"{vllm().parent}{os.pathsep}{os.environ['PATH']}"
        cache = str(directory() / "cache")
        yield VARIABLES | {"PATH": path, "TMPDIR": temporary, "VLLM_CACHE_ROOT": cache}


@contextlib.contextmanager
def engine(log_dir: Path, *flags: str, env: Mapping[str, str] | None = None) -> Iterator[programs.Program]:
    """One engine on a TCP port of its own, ready."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    argv = [str(vllm()), "serve", str(model()), "--host", "127.0.0.1", "--port", str(port), *FLAGS, *flags]
    with (
        environment() as variables,
        programs.running(argv, log_dir / f"vllm-{port}.log", url=url, env={**variables, **(env or {})}) as program,
    ):
        await_ready(program, url)
        with ended_in_order(program):
            yield program


@contextlib.contextmanager
def ended_in_order(program: programs.Program) -> Iterator[None]:
    """Tell the program to end after the block, and give it time: killed, engines leave semaphores in /dev/shm."""
    try:
        yield
    finally:
        program.signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            program.wait()


def await_ready(program: programs.Program, url: str) -> None:
    """Wait until `url` is healthy; fail with what the program said if it ends before."""
    ended = program.process.poll
    programs.wait_until(
        lambda: ended() is not None or programs.answers(url + "/health"), f"{url} is healthy", START_SECONDS
    )
    assert ended() is None, f"the engine ended with {ended()}\n{program.output()[-3000:]}"
