"""The operator as an administrator gets it: the chart, installed with Helm, with the images of this checkout."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from cluster import Cluster
from docker.images import ROOT, tag

CHART = ROOT / "charts" / "dp-vllm"
NAMESPACE = "dp-vllm-system"
RELEASE = "dp-vllm"


def values(**changed: str) -> list[str]:
    repository, _, version = tag("operator").rpartition(":")
    given = {
        "image.repository": repository,
        "image.tag": version,
        "image.pullPolicy": "Never",
        "defaults.gatewayImage": tag("gateway"),
        "test.engineImage": tag("sim"),
    } | {name.replace("__", "."): value for name, value in changed.items()}
    return [word for name, value in given.items() for word in ("--set-string", f"{name}={value}")]


def upgrade(cluster: Cluster, **changed: str) -> None:
    """Install the chart, or upgrade it, and wait until its operator is ready. `a__b` is the value `a.b`."""
    words = ("upgrade", "--install", RELEASE, str(CHART), f"--namespace={NAMESPACE}", "--create-namespace")
    cluster.run("helm", *words, *values(**changed), "--wait", "--timeout=120s")


@contextmanager
def released(cluster: Cluster) -> Iterator[None]:
    """Installed, until the block ends."""
    os.environ.setdefault("HOME", "/root")
    upgrade(cluster)
    try:
        yield
    finally:
        cluster.run("helm", "uninstall", RELEASE, f"--namespace={NAMESPACE}", "--wait", "--timeout=60s")
