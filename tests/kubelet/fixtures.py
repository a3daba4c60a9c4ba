"""The fixture `kubelet`."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from cluster import Cluster
from cluster.given import AnyCluster

if TYPE_CHECKING:
    from .kubelet import Kubelet


@pytest.fixture
def kubelet(control_plane: AnyCluster, namespace: str) -> "Iterator[Kubelet]":
    """Plays the nodes of the test's namespace; there is none until the test adds it."""
    from .kubelet import Kubelet  # takes a while to import, and few tests need it

    certificate = control_plane.server_certificate() if isinstance(control_plane, Cluster) else None
    with Kubelet(control_plane.kubeconfig, namespace, certificate) as kubelet:
        yield kubelet
