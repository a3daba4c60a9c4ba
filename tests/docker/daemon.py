"""Starts a Docker engine of our own, and leaves the machine as it was.

The engine and all its containers live in a pid and a mount namespace of their own, so that they end together, however
this process ends. Its images stay in the user's cache, so that the next build is quick. Its network is the machine's:
images can be built from package indexes, and a published port is on loopback. It writes no packet filter rules and
switches no forwarding on, so containers reach each other and the machine, and nothing beyond.
"""

import contextlib
import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import programs
import psutil
from docker.debian import CACHE, Failed, environment

_BRIDGE: Final = Path("/sys/class/net/docker0")
_PLACES: Final = (Path("/etc/docker"), Path("/run/docker"), Path("/run/containerd"), Path("/run/runc"))
"""What the daemon makes outside the folders that it is given."""
_CGROUPS: Final = Path("/sys/fs/cgroup")
_START_SECONDS: Final = 60.0
_STOP_SECONDS: Final = 30.0

_BOOT: Final = """
set -e
mkdir -p /run/containerd
mount --no-mtab -t tmpfs tmpfs /run/containerd
exec tini -- dockerd "$@"
"""
"""The namespace's first process. containerd keeps its sockets in /run/containerd whatever it is told."""


@contextlib.contextmanager
def running() -> Iterator[str]:
    """Run an engine until the block ends; the value of DOCKER_HOST. One at a time on a machine: others wait."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (
        (CACHE / "lock").open("w") as lock,
        tempfile.TemporaryDirectory(prefix="dp-vllm-docker-", dir="/var/tmp") as folder,
    ):
        fcntl.flock(lock, fcntl.LOCK_EX)
        with _machine_as_it_was(f"dp-vllm-docker-{os.getpid()}") as cgroup, _started(Path(folder), cgroup) as host:
            yield host


@contextlib.contextmanager
def _started(folder: Path, cgroup: str) -> Iterator[str]:
    host = f"unix://{folder}/docker.sock"
    data = CACHE / "data"
    try:
        process = _start(folder, host, data, cgroup)
    except Failed:
        if not data.exists():
            raise
        shutil.rmtree(data)  # an engine that was killed may have left it as the next one cannot read it
        process = _start(folder, host, data, cgroup)
    try:
        yield host
    finally:
        _stop(process)


def _start(folder: Path, host: str, data: Path, cgroup: str) -> subprocess.Popen[bytes]:
    """The process that has the engine's namespaces, once the engine answers."""
    with (folder / "dockerd.log").open("wb") as log:
        process = subprocess.Popen(
            [*_NAMESPACES, "sh", "-c", _BOOT, "sh", *_daemon_flags(folder, host, data, cgroup)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, **environment()},
        )
    try:
        programs.wait_until(lambda: process.poll() is not None or _answers(host), "dockerd answers", _START_SECONDS)
    except BaseException:
        _kill(process)
        raise
    if process.poll() is not None:
        last = (folder / "dockerd.log").read_text(errors="replace").strip().splitlines()[-1:]
        raise Failed(f"dockerd ended with {process.returncode}: {''.join(last)}")
    return process


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Let the engine put its things in order, unless it takes long."""
    for first in psutil.Process(process.pid).children():
        first.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        _kill(process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait(_STOP_SECONDS)


_NAMESPACES: Final = (
    *("setpriv", "--pdeathsig", "KILL"),
    *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
)


def _daemon_flags(folder: Path, host: str, data: Path, cgroup: str) -> list[str]:
    return [
        f"--host={host}",
        f"--data-root={data}",
        f"--exec-root={folder}/run",
        f"--pidfile={folder}/docker.pid",
        f"--cgroup-parent=/{cgroup}",
        "--exec-opt=native.cgroupdriver=cgroupfs",
        "--oom-score-adjust=0",  # less than that of its parent needs a capability that root may lack
        "--iptables=false",
        "--ip-forward=false",
        "--ip-masq=false",
    ]


def _answers(host: str) -> bool:
    command = ["docker", "--host", host, "version"]
    return subprocess.run(command, capture_output=True, env={**os.environ, **environment()}).returncode == 0


@contextlib.contextmanager
def _machine_as_it_was(cgroup: str) -> Iterator[str]:
    """Take away what an engine leaves behind and was not there before."""
    bridge_was_there = _BRIDGE.exists()
    new_places = [place for place in _PLACES if not place.exists()]
    try:
        yield cgroup
    finally:
        tops = [_CGROUPS / cgroup, *_CGROUPS.glob(f"*/{cgroup}")]
        programs.wait_until(lambda: all(map(_removed, tops)), f"{cgroup} has no process left", _STOP_SECONDS)
        for place in new_places:
            shutil.rmtree(place, ignore_errors=True)
        if _BRIDGE.exists() and not bridge_was_there:
            subprocess.run(["ip", "link", "delete", "docker0"], check=True)


def _removed(top: Path) -> bool:
    """Remove a cgroup with those below it; False while a process is in one of them."""
    try:
        for folder, _, _ in os.walk(top, topdown=False):
            Path(folder).rmdir()
    except OSError:
        return False
    return True
