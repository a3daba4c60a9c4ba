"""What keeps others from harming a model's pods: how many may be evicted, and who may speak to the engines. Pure."""

from typing import Any

from dp_vllm import names
from dp_vllm_operator.model import Model
from dp_vllm_operator.render.gateway import selector
from dp_vllm_operator.settings import Settings

Json = dict[str, Any]

OPERATOR_COMPONENT = "operator"
"""The operator's own pods have it as their component label."""


def disruption_budget(model: Model, component: str) -> Json:
    """One of a component's pods at a time; sick ones do not keep a node from being drained."""
    return {
        "maxUnavailable": 1,
        "selector": {"matchLabels": selector(model, component)},
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
    }


def network_policy(model: Model, settings: Settings) -> Json:
    """Engines ask nobody for a key, so only the model's gateways and the operator get to them."""
    peers: list[Json] = [{"podSelector": {"matchLabels": selector(model, names.GATEWAY)}}]
    if settings.own_namespace:
        operator = {names.NAME_LABEL: names.PRODUCT, names.COMPONENT_LABEL: OPERATOR_COMPONENT}
        namespace = {"kubernetes.io/metadata.name": settings.own_namespace}
        peers.append({"namespaceSelector": {"matchLabels": namespace}, "podSelector": {"matchLabels": operator}})
    return {
        "podSelector": {"matchLabels": selector(model, names.REPLICA)},
        "policyTypes": ["Ingress"],
        "ingress": [{"from": peers, "ports": [{"port": names.ENGINE_PORT, "protocol": "TCP"}]}],
    }
