"""A real Slurm on one machine: a controller and a daemon for each node, all on the loopback address, as root.

The GPUs are device files, copies of /dev/null: Slurm hands them out and sets a job's variables as on a real cluster.
All nodes have this machine's host name, file system and address, so what two nodes may not share they must tell apart.
"""

import contextlib
import os
import shutil
import socket
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil
from ports import free_port
from programs import command_line, running, wait_until
from slurm import debian

GPUS: Final = 4
NODES: Final = ("n1", "n2")
_NULL: Final = os.makedev(1, 3)
_END_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Bed:
    """A Slurm that runs."""

    folder: Path

    def environment(self) -> dict[str, str]:
        """What its commands and jobs see: nothing of what this machine's user has set, and a home of their own."""
        return debian.environment() | {
            "SLURM_CONF": str(self.folder / "slurm.conf"),
            "HOME": str(self.home),
            "XDG_RUNTIME_DIR": str(self.run_directories),
            "LANG": "C.UTF-8",
        }

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def run_directories(self) -> Path:
        return self.folder / "run-user"

    def command(self, *words: str) -> str:
        """What one of Slurm's commands says."""
        done = subprocess.run(words, env=self.environment(), capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, f"{words}: {done.stderr}"
        return done.stdout

    def jobs(self) -> list[str]:
        """The ids of the jobs that are not over."""
        return self.command("squeue", "--noheader", "--format=%A").split()

    def processes(self) -> list[psutil.Process]:
        """All that this Slurm started on its nodes, also what has left its parent.

        `HOME` tells them from others: no program of ours takes it from its children.
        """
        mark = f"HOME={self.home}\0".encode()
        return [process for process in psutil.process_iter() if _has(process, mark)]

    def command_lines(self) -> dict[psutil.Process, list[str]]:
        """What each of them was started with, less those that have ended by now."""
        return {process: words for process in self.processes() if (words := command_line(process))}

    def ours(self) -> list[psutil.Process]:
        """Those of them that are programs of dp-vllm: supervisors, gateways, engines and guardians, but no `srun`."""
        named = [(each, words) for each, words in self.command_lines().items() if "dp_vllm" in " ".join(words)]
        return [each for each, words in named if Path(words[0]).name != "srun"]


def _has(process: psutil.Process, mark: bytes) -> bool:
    try:
        return mark in Path(f"/proc/{process.pid}/environ").read_bytes()
    except OSError:  # it has ended
        return False


@contextlib.contextmanager
def slurm() -> Iterator[Bed]:
    """A Slurm with idle nodes; at the end nothing is left of it and of its jobs."""
    folder = Path(tempfile.mkdtemp(prefix="dps-"))  # short: a job's sockets have paths below it
    bed = Bed(folder)
    try:
        _prepare(bed)
        with contextlib.ExitStack() as stack:
            stack.callback(_kill_all, bed)
            _start(bed, stack)
            yield bed
            bed.command("scancel", "--user=root")
            wait_until(lambda: not bed.jobs(), lambda: f"jobs end: {bed.command('squeue')}", seconds=40)
    finally:
        shutil.rmtree(folder)


def _prepare(bed: Bed) -> None:
    folder = bed.folder
    folder.chmod(0o755)
    for name in ("state", "log", "run", "home", "run-user", *(f"spool-{node}" for node in NODES)):
        (folder / name).mkdir(mode=0o755)
    bed.run_directories.chmod(0o700)
    for number in range(GPUS):
        os.mknod(folder / f"gpu{number}", stat.S_IFCHR | 0o600, _NULL)
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    (folder / "gres.conf").write_text(
        f"NodeName={','.join(NODES)} Name=gpu File={folder}/gpu[0-{GPUS - 1}]\n",
    )
    (folder / "slurm.conf").write_text(_configuration(folder))


def _configuration(folder: Path) -> str:
    host = socket.gethostname().partition(".")[0]
    nodes = "\n".join(
        f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={free_port()} CPUs=8 Gres=gpu:{GPUS}"
        for node in NODES
    )
    return f"""
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={free_port()}
SlurmUser=root
SlurmdUser=root
PluginDir={debian.libraries()}/slurm-wlm
AuthType=auth/munge
AuthInfo=socket={folder}/run/munge.sock
CredType=cred/munge
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/slurmd-%n.pid
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
GresTypes=gpu
ReturnToService=2
MpiDefault=none
KillWait=30
PartitionName=p Nodes=ALL Default=YES State=UP
{nodes}
"""


def _start(bed: Bed, stack: contextlib.ExitStack) -> None:
    folder, programs = bed.folder, debian.programs() / "usr/sbin"
    munge = folder / "run/munge.sock"

    def start(name: str, *words: str | Path, ready: Path | None = None) -> None:
        argv = list(map(str, words))
        is_ready = ready.exists if ready else None
        stack.enter_context(running(argv, folder / "log" / name, ready=is_ready, env=bed.environment()))

    start(
        "munged", programs / "munged", "--foreground", "--force", f"--key-file={folder}/munge.key",
        f"--socket={munge}", f"--pid-file={folder}/run/munged.pid", f"--log-file={folder}/log/munged.log",
        f"--seed-file={folder}/run/seed", ready=munge,
    )  # fmt: skip
    start("slurmctld", programs / "slurmctld", "-D", "-c")
    for node in NODES:
        start(f"slurmd-{node}", programs / "slurmd", "-D", "-d", programs / "slurmstepd", "-N", node)
    wait_until(lambda: _idle(bed) == len(NODES), lambda: f"nodes are idle: {_logs(folder)}")


def _idle(bed: Bed) -> int:
    done = subprocess.run(
        ("sinfo", "-h", "-N", "-t", "idle", "-o", "%N"), env=bed.environment(), capture_output=True, text=True
    )
    return len(done.stdout.split())


def _logs(folder: Path) -> str:
    return "\n".join(f"{path.name}: {path.read_text()[-1000:]}" for path in sorted((folder / "log").iterdir()))


def _kill_all(bed: Bed) -> None:
    """What a test that failed has left, and the daemons' own children."""
    left = bed.processes()
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, _END_SECONDS)
