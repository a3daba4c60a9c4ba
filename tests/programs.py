"""Starts the project's real programs for tests and benchmarks, and waits for what they say rather than for time.

Every program runs in its own session, logs to a file that a failure shows, and is gone when the `with` block ends.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import forked
import psutil
from ports import free_port

START_SECONDS = 20.0
"""How long a program may take to say that it is ready, on a busy machine."""


def wait_until(
    condition: Callable[[], bool],
    what: str | Callable[[], str],
    seconds: float = START_SECONDS,
    *,
    every: float = 0.02,
) -> None:
    """Poll `condition` until it holds; fail with `what` when it has not within `seconds`.

    Say `every` how many seconds if it is dear: one that starts a program takes the CPU from what it waits for.
    """
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"waited {seconds:g} s in vain: {what if isinstance(what, str) else what()}")
        time.sleep(every)


def is_alive(process: psutil.Process) -> bool:
    """Whether it has not ended, even if its parent has yet to notice the end."""
    return process.is_running() and not has_ended(process.pid)


def has_ended(pid: int) -> bool:
    """Whether nothing of this process is left but what its parent has yet to notice."""
    return _start_of(pid) is None


def command_line(process: psutil.Process) -> list[str]:
    """What it was started with; nothing if it has ended."""
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:  # a zombie, too
        return []


def answers(url: str, status: int = 200) -> bool:
    """Whether a GET of `url` is answered with `status`."""
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return int(response.status) == status
    except urllib.error.HTTPError as error:
        return error.code == status
    except OSError:
        return False


@dataclass(frozen=True, slots=True)
class Program:
    """A program that was started by a test."""

    process: subprocess.Popen[bytes] | forked.Process
    log: Path
    url: str = ""

    @property
    def pid(self) -> int:
        return self.process.pid

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self, seconds: float = START_SECONDS) -> int:
        """The exit status, once it has ended."""
        return self.process.wait(seconds)


@contextlib.contextmanager
def running(
    argv: list[str],
    log: Path,
    *,
    url: str = "",
    ready: Callable[[], bool] | None = None,
    env: Mapping[str, str] | None = None,
    start_seconds: float = START_SECONDS,
) -> Iterator[Program]:
    """Run `argv` until the block ends; enter the block once `ready` holds, within `start_seconds`."""
    process = _start(argv, log, {**os.environ, **(env or {})})
    program = Program(process, log, url)
    try:
        if ready is not None:
            wait_until(
                lambda: process.poll() is not None or ready(), lambda: f"{argv}\n{program.output()}", start_seconds
            )
            assert process.poll() is None, f"{argv} ended with {process.returncode}\n{program.output()}"
        yield program
    finally:
        end(process)


def end(process: subprocess.Popen[bytes] | forked.Process, seconds: float = START_SECONDS) -> None:
    """Kill the session that `process` leads, and wait until nothing of it is left: no memory, no port, no open file."""
    family = [process.pid, *_descendants(process.pid)]
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    starts = {pid: start for pid in family if (start := _start_of(pid)) is not None}
    wait_until(
        lambda: _group_has_ended(process.pid) and not any(_start_of(pid) == start for pid, start in starts.items()),
        lambda: f"the descendants of process {process.pid} end, of {list(starts)}",
        seconds,
        every=0.002,
    )


def _descendants(pid: int) -> list[int]:
    """The processes below `pid`, those in other sessions too."""
    found = []
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += [int(child) for child in children.read_bytes().split()]
    return found + [further for child in found for further in _descendants(child)]


def _group_has_ended(leader: int) -> bool:
    """Whether none of the process group runs; a zombie has let go of everything it had."""
    try:
        os.killpg(leader, 0)
    except ProcessLookupError:
        return True
    return not any(
        (fields := _stat(int(entry.name))) and int(fields[2]) == leader and not _is_over(fields)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit()
    )


def _start_of(pid: int) -> int | None:
    """When the process began, which tells it from a later one with its number; None if it has ended."""
    fields = _stat(pid)
    return int(fields[19]) if fields and not _is_over(fields) else None


def _is_over(fields: list[bytes]) -> bool:
    """Whether all threads have ended: a process whose first one has is shown as a zombie while others run."""
    return fields[0] in (b"Z", b"X") and int(fields[17]) <= 1


def _stat(pid: int) -> list[bytes] | None:
    """The fields of /proc/PID/stat from the third on."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None


def _start(argv: list[str], log: Path, env: Mapping[str, str]) -> subprocess.Popen[bytes] | forked.Process:
    """Tests have no time to import a program anew each time; a benchmark starts it as its users do."""
    log.write_bytes(b"")
    own, module = argv[:3], "".join(argv[3:4])
    if "PYTEST_VERSION" in os.environ and own == python("-m") and module in forked.MODULES:
        return forked.zygote(module).start(argv[4:], log, env)
    with log.open("ab") as output:
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=env,
        )


def python(*arguments: str) -> list[str]:
    """A command line of this Python, isolated from the working directory as the images run it."""
    return [sys.executable, "-I", *arguments]


@contextlib.contextmanager
def sim(
    log_dir: Path, *flags: str, model: str = "demo/model", host: str = "127.0.0.1", port: int | None = None
) -> Iterator[Program]:
    """One simulated engine on a TCP port of its own, ready."""
    port = port or free_port()
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    argv = python("-m", "dp_vllm.sim", model, "--host", host, "--port", str(port), *flags)
    with running(argv, log_dir / f"sim-{host}-{port}.log", url=url, ready=lambda: answers(url + "/health")) as program:
        yield program


@contextlib.contextmanager
def gateway(log_dir: Path, *flags: str, port: int | None = None) -> Iterator[Program]:
    """One gateway on a TCP port of its own that has looked at all its replicas."""
    port = port or free_port()
    url = f"http://127.0.0.1:{port}"
    argv = python("-m", "dp_vllm_gateway", "--host", "127.0.0.1", "--port", str(port), *flags)
    with running(argv, log_dir / f"gateway-{port}.log", url=url, ready=lambda: answers(url + "/ready")) as program:
        yield program


@contextlib.contextmanager
def operator(log_dir: Path, kubeconfig: Path, *flags: str, env: Mapping[str, str] | None = None) -> Iterator[Program]:
    """One operator that is logged in and watches; `url` is that of its health, with /metrics."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    argv = python("-m", "dp_vllm_operator", "--health-port", str(port), *flags)
    variables = {**(env or {}), "KUBECONFIG": str(kubeconfig)}
    log = log_dir / f"operator-{port}.log"
    with running(argv, log, url=url, ready=lambda: answers(url + "/readyz"), env=variables) as program:
        yield program
