"""Namespaces of single tests, whose pods run on nodes of their own only."""

import json
from typing import Final

NODE_LABEL: Final = "test.dpvllm.io/namespace"
"""On the nodes of a namespace: its name."""


def manifest(name: str) -> str:
    """A namespace for kubectl. Without a node with its label its pods wait, whatever other tests have nodes for."""
    annotations = {"scheduler.alpha.kubernetes.io/node-selector": f"{NODE_LABEL}={name}"}
    metadata = {"name": name, "annotations": annotations}
    return json.dumps({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
