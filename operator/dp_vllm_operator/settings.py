"""What the operator process is told, once, at its start."""

from dataclasses import dataclass
from typing import Final

ALL_IPV4: Final = "0.0.0.0"  # noqa: S104 - in a pod
ALL: Final = "::"
"""All addresses of a pod, those of IPv4 too; only a kernel with IPv6 has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One operator."""

    namespaces: tuple[str, ...] = ()
    """Which namespaces it serves; none stands for all of the cluster."""
    own_namespace: str = ""
    """Where it runs, if in a pod; replicas let it reach their /load."""
    engine_image: str
    """For models that name no image. It is kept in each revision, so another default restarts nothing."""
    gateway_image: str
    """For models that name no image."""
    gateway_cluster_role: str = "dp-vllm-gateway"
    """What the gateways' service accounts are bound to."""
    listen_address: str = ALL_IPV4
    """Where engines and gateways listen; `::` in clusters whose pods have IPv6 addresses."""
    lease_namespace: str = "kube-system"
    """Where the Lease of a cluster-wide operator is."""
    identity: str
    """Its name in the Lease: the pod's."""
    health_port: int = 8080
    """For /healthz, /readyz and /metrics."""
    workers: int = 8
    """How many models are looked at at once."""
    resync_seconds: float = 300.0
    """How often every model is looked at without an event."""
