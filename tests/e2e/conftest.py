"""What tests with real nodes share. They see the cluster's nodes where other tests see a control plane without any."""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import Cluster
from cluster.given import AnyCluster, GivenCluster, given_cluster
from e2e.images import ARCHIVE_VARIABLE
from e2e.released import released

NODES = 2
GPUS = 8


@pytest.fixture(scope="session")
def cluster() -> Iterator[AnyCluster]:
    """Two nodes with eight GPUs each, on which the project's images are."""
    images = os.environ.get(ARCHIVE_VARIABLE)
    assert images, "tests marked `e2e` need the images that `make e2e` builds"
    with given_cluster() or Cluster(NODES, GPUS) as cluster:
        if isinstance(cluster, GivenCluster):
            cluster.give_gpus(GPUS)
        cluster.load(Path(images))
        yield cluster


@pytest.fixture(scope="session")
def control_plane(cluster: AnyCluster) -> AnyCluster:
    """The same, for the fixtures of all tests before an API server."""
    return cluster


@pytest.fixture(scope="session")
def operator(cluster: Cluster) -> Iterator[None]:
    """The chart is installed."""
    with released(cluster):
        yield


@pytest.fixture
def namespace(cluster: AnyCluster) -> Iterator[str]:
    """A namespace of the test's own; its pods are gone, and GPUs free, when the next test begins."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    cluster.kubectl("create", "namespace", name)
    cluster.kubectl("wait", "--for=create", "serviceaccount/default", "--namespace", name, "--timeout=30s")
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false")  # nothing can be made in it from now on
    cluster.kubectl("delete", "pods", "--all", f"--namespace={name}", "--timeout=120s")
