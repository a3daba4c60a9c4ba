"""The programs a cluster runs: built from Go modules, unpacked from Debian packages, kept in a cache.

The cache is ${XDG_CACHE_HOME:-~/.cache}/dp-vllm/. A Go module's programs are in a folder named after a hash of the
module, so a change builds anew and an old folder may be deleted at any time.
"""

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from . import processes
from .errors import ClusterError

TOOLS = Path(__file__).parent / "tools"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dp-vllm"
DEBIAN = CACHE / "debian"

# By folder. Daemons are unpacked, not installed: installing them would start them as system services.
UNPACKED_PACKAGES = {
    DEBIAN: ("containerd", "runc", "containernetworking-plugins"),
    CACHE / "prometheus": ("prometheus",),  # of it promtool, which checks the chart's alerts
}
COMMAND_PACKAGES = {"openssl": "openssl", "ip": "iproute2", "iptables": "iptables"}


@dataclass(frozen=True)
class Part:
    """Programs that are built together: what a control plane needs, what a node needs in addition, Helm."""

    module: str
    version_of: str
    stamps: tuple[str, ...]
    packages: tuple[str, ...]

    @property
    def programs(self) -> list[str]:
        return [package.rsplit("/", 1)[1] for package in self.packages]

    def missing(self) -> list[str]:
        """List the packages whose programs are not there."""
        return [p for p, program in zip(self.packages, self.programs, strict=True) if not find(program)]


_KUBERNETES_STAMPS = ("k8s.io/component-base/version.gitVersion", "k8s.io/client-go/pkg/version.gitVersion")


def _commands(*names: str) -> tuple[str, ...]:
    return tuple(f"k8s.io/kubernetes/cmd/{name}" for name in names)


PARTS = {
    "etcd": Part("etcd", "go.etcd.io/etcd/server/v3", (), ("./etcd",)),
    "plane": Part("kubernetes", "k8s.io/kubernetes", _KUBERNETES_STAMPS,
                  _commands("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl")),
    "node": Part("kubernetes", "k8s.io/kubernetes", _KUBERNETES_STAMPS,
                 (*_commands("kubelet", "kube-proxy"), "./pause")),
    "dns": Part("addons", "github.com/coredns/coredns", (), ("./coredns",)),
    "helm": Part("addons", "helm.sh/helm/v4", ("helm.sh/helm/v4/internal/version.version",),
                 ("helm.sh/helm/v4/cmd/helm",)),
}  # fmt: skip


def search_path() -> str:
    """The PATH on which all programs are found. $KUBEBUILDER_ASSETS, if set, comes first."""
    unpacked = ":".join(f"{folder}/usr/{part}" for folder in UNPACKED_PACKAGES for part in ("bin", "sbin"))
    return f"{_built_path()}:{unpacked}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def find(program: str) -> str | None:
    """Where a program is. For one that is built here, one of this host's, of some other version, will not do."""
    return shutil.which(program, path=_built_path() if _is_built(program) else search_path())


def lacking(programs: Iterable[str]) -> str:
    """Which of `programs` are not there, and what to run; empty if all are."""
    missing = [program for program in programs if not find(program)]
    commands = sorted({"build" if _is_built(program) else "deps" for program in missing}, reverse=True)
    said = f"missing: {', '.join(missing)}. Run first: python tests/cluster {', '.join(commands)}"
    return said if missing else ""


def build(names: Iterable[str]) -> None:
    """Build the parts in `names`, except what is in the cache or in $KUBEBUILDER_ASSETS already."""
    for name in names:
        part = PARTS[name]
        if not part.missing():
            print(f"{name}: there already", flush=True)
            continue
        target = _bin(part.module)
        target.mkdir(parents=True, exist_ok=True)
        with _locked(target.parent):
            if missing := part.missing():  # nobody else has built it meanwhile
                _go_build(name, part, missing, target)


def fetch_debian_packages() -> None:
    """Unpack the daemons' packages into the cache; install commands that are missing, or say how to."""
    for folder, packages in UNPACKED_PACKAGES.items():
        _fetch(packages, folder)
    missing = [package for command, package in COMMAND_PACKAGES.items() if not find(command)]
    if missing:
        install = ["apt-get", "install", "--yes", "--no-install-recommends", *missing]
        if os.geteuid() != 0:
            raise ClusterError(f"as root, run: {' '.join(install)}")
        processes.run(install)


def _fetch(packages: Sequence[str], folder: Path) -> None:
    if folder.exists():
        print(f"{', '.join(packages)}: there already", flush=True)
        return
    CACHE.mkdir(parents=True, exist_ok=True)
    with _locked(CACHE):
        if not folder.exists():  # nobody else has unpacked them meanwhile
            _unpack(packages, folder)


def _go_build(name: str, part: Part, packages: list[str], target: Path) -> None:
    """Build into a temporary folder and move programs into place: an interrupted build leaves nothing half done."""
    if not shutil.which("go"):
        raise ClusterError("Go is not on the PATH: it builds Kubernetes")
    folder = TOOLS / part.module
    version = processes.run(["go", "list", "-m", "-f", "{{.Version}}", part.version_of], folder=folder).strip()
    flags = " ".join(["-s", "-w", *(f"-X {stamp}={version}" for stamp in part.stamps)])
    programs = ", ".join(package.rsplit("/", 1)[1] for package in packages)
    print(f"{name}: building {programs} ({part.version_of} {version})", flush=True)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="build-") as temporary:
        command = ["go", "build", "-v", "-trimpath", "-buildvcs=false", "-mod=readonly", "-ldflags", flags,
                   "-o", f"{temporary}/", *packages]  # fmt: skip
        environment = os.environ | {"CGO_ENABLED": "0"}
        with subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr
            output = []
            for line in process.stderr:
                output.append(line)
                if len(output) % 200 == 0:
                    print(f"{name}: {len(output)} packages, {time.monotonic() - started:.0f} s", flush=True)
        if process.returncode:
            said = [line for line in output if " " in line]  # the others are names of packages
            raise ClusterError(f"go build failed in {folder}:\n{''.join(said[-20:])}")
        for program in Path(temporary).iterdir():
            program.replace(target / program.name)
    print(f"{name}: built in {time.monotonic() - started:.0f} s", flush=True)


def _unpack(packages: Sequence[str], target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="unpack-") as temporary:
        _download(packages, Path(temporary))
        for archive in Path(temporary).glob("*.deb"):
            processes.run(["dpkg", "--extract", str(archive), f"{temporary}/root"])
            print(f"unpacked {archive.name}", flush=True)
        Path(temporary, "root").replace(target)


def _download(packages: Sequence[str], folder: Path) -> None:
    """By the machine's package lists or, if it has none, by some of our own."""
    if not shutil.which("apt-get"):
        raise ClusterError(f"this is not Debian, of which {', '.join(packages)} are taken")
    try:
        processes.run(["apt-get", "download", "--quiet", *packages], folder=folder)
    except ClusterError:
        (folder / "lists" / "partial").mkdir(parents=True)
        apt = ["apt-get", "--quiet", "--option", f"Dir::State::Lists={folder}/lists", "--option", "Debug::NoLocking=1"]
        processes.run([*apt, "--option", f"Dir::Cache={folder}/cache", "update"], folder=folder)
        processes.run([*apt, "--option", f"Dir::Cache={folder}/cache", "download", *packages], folder=folder)


def _is_built(program: str) -> bool:
    return any(program in part.programs for part in PARTS.values())


def _built_path() -> str:
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    folders = [_bin(module) for module in sorted({part.module for part in PARTS.values()})]
    return ":".join(map(str, [*([assets] if assets else []), *folders]))


@cache
def _bin(module: str) -> Path:
    """Where the programs of a Go module are: a folder for each content of the module and kind of machine."""
    folder = TOOLS / module
    digest = hashlib.sha256(platform.machine().encode())
    for file in sorted(path for path in folder.rglob("*") if path.suffix in {".go", ".mod", ".sum"}):
        digest.update(file.read_bytes())
    return CACHE / module / digest.hexdigest()[:16] / "bin"


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other processes, such as the workers of a parallel test run, from doing the same at once."""
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
