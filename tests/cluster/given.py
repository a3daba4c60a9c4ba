"""Somebody's cluster, as kind's or k3s', instead of the test bed's own: $DP_VLLM_TEST_KUBECONFIG names its kubeconfig.

Not plain KUBECONFIG: tests make and delete things for the whole cluster, and must be told so on purpose. For pods that
run the project's images, $DP_VLLM_TEST_LOAD is the command that brings an archive to all nodes, as
`kind load image-archive`.
"""

import json
import os
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn, Self

from . import binaries, processes
from .cluster import Cluster
from .errors import ClusterError

KUBECONFIG_VARIABLE: Final = "DP_VLLM_TEST_KUBECONFIG"
LOAD_VARIABLE: Final = "DP_VLLM_TEST_LOAD"


@dataclass(frozen=True, slots=True)
class GivenCluster:
    """What can be done to any cluster."""

    kubeconfig: Path

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """It stays."""

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """Run kubectl and return its output."""
        return processes.run(self.kubectl_command(*arguments), stdin=stdin)

    def kubectl_command(self, *arguments: str) -> list[str]:
        program = shutil.which("kubectl") or binaries.find("kubectl")
        if program is None:
            raise ClusterError("kubectl is missing. Install it, or run: python tests/cluster build plane")
        return [program, f"--kubeconfig={self.kubeconfig}", *arguments]

    def load(self, images: Path) -> None:
        """Bring an archive of images to all nodes."""
        command = shlex.split(os.environ.get(LOAD_VARIABLE, ""))
        if not command:
            raise ClusterError(f"{LOAD_VARIABLE} is not set: the command that brings {images} to the nodes")
        processes.run([*command, images])

    def give_gpus(self, count: int) -> None:
        """Let nodes that have no GPUs say that they have `count`; nothing more is real of them."""
        gpus = {"nvidia.com/gpu": str(count)}
        patch = json.dumps({"status": {"capacity": gpus, "allocatable": gpus}})
        for node in json.loads(self.kubectl("get", "nodes", "--output=json"))["items"]:
            if "nvidia.com/gpu" not in node["status"]["capacity"]:
                name = node["metadata"]["name"]
                self.kubectl("patch", "node", name, "--subresource=status", "--type=merge", f"--patch={patch}")

    @property
    def audit_log(self) -> Path:
        _cannot("its audit log cannot be read")

    def login(self, user: str, groups: tuple[str, ...] = ()) -> Path:
        _cannot("nobody can be logged in without its certificate authority")

    def server_certificate(self) -> tuple[Path, Path]:
        _cannot("it trusts no server of tests")


AnyCluster = Cluster | GivenCluster


def given_cluster() -> GivenCluster | None:
    """The cluster that the caller's environment names."""
    path = os.environ.get(KUBECONFIG_VARIABLE)
    return GivenCluster(Path(path)) if path else None


def _cannot(what: str) -> NoReturn:
    raise ClusterError(f"{KUBECONFIG_VARIABLE} names the cluster: {what}; unset it to use the test bed's own")
