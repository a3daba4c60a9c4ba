"""Where daemons run: on this host, or on a machine of their own, made of Linux namespaces."""

import os
import subprocess
import time
from collections.abc import Collection
from pathlib import Path
from typing import Final

from . import binaries, processes
from .errors import ClusterError

CGROUPS: Final = Path("/sys/fs/cgroup")

_GO: Final = {"GOGC": "400"}
"""Less CPU for more memory: the daemons take a fifth of a test run's CPU."""

# The first process of a machine. Mounts and links it makes end with it.
_BOOT: Final = r"""
set -eu
disk=$1
mount -t tmpfs tmpfs /run
for folder in lib log; do  # host files can be read, writes go to the machine's own disk
    mkdir -p "$disk/$folder" "$disk/.$folder"
    mount -t overlay -o "lowerdir=/var/$folder,upperdir=$disk/$folder,workdir=$disk/.$folder" overlay "/var/$folder"
done
mount --make-rshared /  # kubelet wants volumes to propagate
ip link set lo up
echo 1 > /proc/sys/net/ipv4/ip_forward
echo 1 > /proc/sys/net/bridge/bridge-nf-call-iptables  # else Services are not translated between pods of a node
trap '' CHLD  # the kernel reaps orphans
echo booted
exec sleep infinity
"""


class Host:
    """Daemons in the caller's own namespaces. Each logs to FOLDER/logs and carries a label, see `processes`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.logs = folder / "logs"
        self._started: dict[str, subprocess.Popen[str]] = {}
        self._log_starts: dict[str, int] = {}

    def boot(self) -> None:
        self.logs.mkdir(parents=True, exist_ok=True)

    def enter(self, *arguments: str | Path) -> list[str]:
        """The command that runs `arguments` on this machine."""
        return [*map(str, arguments)]

    def enter_network(self, *arguments: str | Path) -> list[str]:
        """As `enter`, but files and process ids stay this host's."""
        return [*map(str, arguments)]

    def run(self, *arguments: str | Path) -> str:
        """Run a command to its end and return its output."""
        return processes.run(self.enter(*arguments), environment=self.environment())

    def start(self, program: str, *arguments: str | Path) -> None:
        """Start a daemon, in a session of its own."""
        self.spawn(program, self.enter(program, *arguments))

    def spawn(
        self, name: str, command: list[str], *, output: int | None = None, pass_fds: Collection[int] = ()
    ) -> subprocess.Popen[str]:
        """Start any command as the daemon `name`. Its output goes to its log, or to `output`."""
        with (self.logs / f"{name}.log").open("ab") as log:
            self._log_starts[name] = log.tell()
            process = subprocess.Popen(
                command,
                env=self.environment(name),
                stdin=subprocess.DEVNULL,
                stdout=output or log,
                stderr=log,
                pass_fds=pass_fds,
                start_new_session=True,
                text=True,
            )
        self._started[name] = process
        return process

    def check(self) -> None:
        """Raise an error, with the end of its log, if a daemon that was started here has ended."""
        for program, process in self._started.items():
            if process.poll() is not None:
                log = self._log(program).splitlines()
                raise ClusterError(f"{self.folder.name}: {program} has ended:\n" + "\n".join(log[-8:]))

    def wait_for(self, program: str, text: str, timeout_seconds: float = 30) -> None:
        """Wait until a daemon that was started here has logged `text`."""
        deadline = time.monotonic() + timeout_seconds
        while text not in self._log(program):
            self.check()
            if time.monotonic() > deadline:
                raise ClusterError(f"{self.folder.name}: no {text!r} in the log of {program}")
            time.sleep(0.02)

    def find(self, program: str) -> int:
        """The process id, on this host, of a daemon."""
        for pid in processes.find(self.folder, program):
            if processes.is_running(pid, program):
                return pid
        raise ClusterError(f"{self.folder.name}: {program} is not running")

    def end(self, name: str) -> None:
        """End a daemon that was started here."""
        process = self._started.pop(name)
        process.terminate()
        process.wait()

    def forget(self) -> None:
        """Take note of the end of daemons that were killed: they are this process' children."""
        for process in self._started.values():
            process.wait()
        self._started.clear()

    def environment(self, program: str = "") -> dict[str, str]:
        """The same for everyone: no proxy, no kubeconfig, no home of the caller's."""
        label = {processes.LABEL: f"{self.folder}/{program}"} if program else {}
        return {"PATH": binaries.search_path(), "HOME": str(self.folder), **_GO} | label

    def _log(self, program: str) -> str:
        """What a daemon has logged since its start."""
        log = (self.logs / f"{program}.log").read_bytes()
        return log[self._log_starts[program] :].decode(errors="replace")


class Machine(Host):
    """Daemons in a network, mount and pid namespace, with a cgroup: what a virtual machine would be, in 50 ms.

    `nsenter`, not `ip netns exec`, enters it: the latter mounts a new /sys, which hides the cgroups.
    """

    def __init__(self, folder: Path, cgroup: str) -> None:
        super().__init__(folder)
        self.cgroup = cgroup
        self._pid = 0

    @property
    def pid(self) -> int:
        """The process that holds the namespaces. It is the parent of the machine's first process."""
        if not self._pid or not processes.is_running(self._pid, "unshare"):
            self._pid = self.find("unshare")
        return self._pid

    def boot(self) -> None:
        super().boot()
        command = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc",
                   "sh", "-c", _BOOT, "boot", str(self.folder / "disk")]  # fmt: skip
        process = self.spawn("unshare", command, output=subprocess.PIPE)
        assert process.stdout
        with process.stdout as output:
            if output.readline() != "booted\n":
                process.wait()
                self.check()
        self._pid = process.pid
        self._create_cgroups()

    def enter(self, *arguments: str | Path) -> list[str]:
        spaces = f"/proc/{self.pid}/ns"
        return ["nsenter", f"--net={spaces}/net", f"--mount={spaces}/mnt", f"--pid={spaces}/pid_for_children",
                "--", *map(str, arguments)]  # fmt: skip

    def enter_network(self, *arguments: str | Path) -> list[str]:
        return ["nsenter", f"--net=/proc/{self.pid}/ns/net", "--", *map(str, arguments)]

    def ip(self, arguments: str) -> None:
        """Configure the machine's network."""
        processes.run(self.enter_network("ip", *arguments.split()), environment=self.environment())

    def is_up(self) -> bool:
        return bool(processes.find(self.folder, "unshare"))

    def kill(self) -> None:
        """End all its processes at once, as if power were cut."""
        processes.kill(self.folder)
        self.forget()
        remove_cgroups(self.cgroup)

    def _create_cgroups(self) -> None:
        """Give kubelet a cgroup of its own: two kubelets with the same one remove each other's pods' groups."""
        for hierarchy in hierarchies():
            group = hierarchy / self.cgroup
            group.mkdir(exist_ok=True)
            for setting in ("cpuset.cpus", "cpuset.mems"):  # empty in a new group, and then no process may enter it
                if (group / setting).exists():
                    (group / setting).write_text((hierarchy / setting).read_text())


def hierarchies() -> list[Path]:
    """The mounted cgroup hierarchies of version 1."""
    return [folder for folder in _mounted_groups() if not (folder / "cgroup.controllers").exists()]


def _mounted_groups() -> list[Path]:
    return [folder for folder in CGROUPS.iterdir() if (folder / "cgroup.procs").exists() and folder.is_mount()]


def remove_cgroups(prefix: str, timeout_seconds: float = 10) -> None:
    """Remove the cgroups whose name begins with `prefix`; they stay busy for a moment after their processes' end."""
    deadline = time.monotonic() + timeout_seconds
    while groups := [group for folder in _mounted_groups() for group in folder.glob(f"{prefix}*")]:
        for group in groups:
            for folder, _, _ in os.walk(group, topdown=False):
                try:
                    os.rmdir(folder)
                except OSError as error:
                    if time.monotonic() > deadline:
                        raise ClusterError(f"cannot remove cgroup {folder}: {error.strerror}") from None
        time.sleep(0.05)
