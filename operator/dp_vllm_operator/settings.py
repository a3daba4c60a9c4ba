"""What the operator process is told, once, at its start."""

from dataclasses import dataclass


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
