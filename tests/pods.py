"""Pods made of namespaces alone: containers that share processes and the network, as in a replica's pod.

Each container has a mount namespace of its own, and its first process has its parent outside, as under a kubelet.
"""

import contextlib
import os
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import programs
import psutil

import dp_vllm_operator

IN_POD = Path(dp_vllm_operator.__path__[0], "in_pod")
"""Where the programs are that run in pods."""

_ROOT = os.geteuid() == 0
_AS_USER = () if _ROOT else ("--user", "--map-root-user")
_INTO_USER = () if _ROOT else ("--user", "--preserve-credentials")


def engine_life(*arguments: str, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run the probe or the hook outside of any pod."""
    return _run([*programs.python(str(IN_POD / "engine_life.py")), *arguments], env)


@dataclass(frozen=True, slots=True)
class Container:
    """A running container."""

    program: programs.Program
    """Ends when the container's first process ends."""
    main: psutil.Process
    """That process, by its number outside of the pod."""

    def engine_life(self, *arguments: str, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        """Run the probe or the hook as the kubelet does."""
        argv = [*programs.python(str(IN_POD / "engine_life.py")), *arguments]
        return _run([*_enter(self.main.pid), *argv], {"KUBERNETES_SERVICE_HOST": "10.0.0.1", **env})


@dataclass(frozen=True, slots=True)
class Pod:
    """A running pod without containers."""

    init: int
    """Its process number 1, by its number outside."""
    log_dir: Path

    @contextlib.contextmanager
    def container(self, argv: list[str], env: Mapping[str, str] | None = None) -> Iterator[Container]:
        """Run a container until the block ends."""
        log = self.log_dir / f"container-{len(list(self.log_dir.glob('container-*')))}.log"
        with programs.running([*_enter(self.init), "unshare", "--mount", *argv], log, env=env) as program:
            yield Container(program, _only_child(program))


@contextlib.contextmanager
def pod(log_dir: Path) -> Iterator[Pod]:
    """Run a pod until the block ends."""
    argv = ["unshare", *_AS_USER, "--pid", "--fork", "--mount-proc", "sleep", "infinity"]
    with programs.running(argv, log_dir / "pod.log") as program:
        yield Pod(_only_child(program).pid, log_dir)


def _enter(pid: int) -> list[str]:
    return ["nsenter", f"--target={pid}", *_INTO_USER, "--pid", "--mount"]


def _only_child(program: programs.Program) -> psutil.Process:
    """The child once it runs what it is to run: before that it has the name of its parent."""

    def started() -> bool:
        names = [child.name() for child in parent.children()]
        return names != [] and names[0] not in ("unshare", "nsenter")

    parent = psutil.Process(program.pid)
    programs.wait_until(started, f"a process runs\n{program.output()}")
    (child,) = parent.children()
    return child


def _run(argv: list[str], env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, env={**os.environ, **env}, capture_output=True, text=True, timeout=60)
