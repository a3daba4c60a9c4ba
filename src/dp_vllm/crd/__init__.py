"""The custom resource definition of DPModel: schema, rules, columns, subresources. Made from the types; pure."""

from typing import Any, Final

import yaml

from dp_vllm import names
from dp_vllm.crd import rules
from dp_vllm.crd.status import Status
from dp_vllm.crd.structural import Types
from dp_vllm.spec import DPModelSpec

NAME: Final = f"{names.PLURAL}.{names.API_GROUP}"
SINGULAR: Final = names.KIND.lower()
SHORT: Final = "dpm"


def custom_resource_definition() -> dict[str, Any]:
    """The definition, exactly as an API server keeps it."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": NAME},
        "spec": {
            "group": names.API_GROUP,
            "names": {
                "kind": names.KIND,
                "listKind": f"{names.KIND}List",
                "plural": names.PLURAL,
                "singular": SINGULAR,
                "shortNames": [SHORT],
                "categories": [names.PRODUCT],
            },
            "scope": "Namespaced",
            "conversion": {"strategy": "None"},
            "versions": [_version()],
        },
    }


def as_yaml() -> str:
    """The definition for `kubectl apply`."""
    return yaml.safe_dump(custom_resource_definition(), sort_keys=False, width=120, allow_unicode=True)


def _version() -> dict[str, Any]:
    return {
        "name": names.API_VERSION,
        "served": True,
        "storage": True,
        "subresources": {
            "status": {},
            "scale": {
                "specReplicasPath": ".spec.replicas",
                "statusReplicasPath": ".status.replicas",
                "labelSelectorPath": ".status.selector",
            },
        },
        "additionalPrinterColumns": _columns(),
        "schema": {"openAPIV3Schema": _schema()},
    }


def _schema() -> dict[str, Any]:
    types = Types(rules.PARTS)
    return {
        "description": DPModelSpec.__doc__,
        "type": "object",
        "required": ["spec"],
        "properties": {
            "apiVersion": {
                "description": f"Version of this object's schema: {names.API_GROUP}/{names.API_VERSION}.",
                "type": "string",
            },
            "kind": {"description": f"Kind of this object: {names.KIND}.", "type": "string"},
            "metadata": {"type": "object"},
            "spec": {**types.schema(DPModelSpec), "description": "What is asked for."},
            "status": {**types.schema(Status), "description": Status.__doc__},
        },
        "x-kubernetes-validations": [rule.json for rule in rules.OBJECT],
    }


def _columns() -> list[dict[str, Any]]:
    ready = '.status.conditions[?(@.type=="Ready")]'
    return [
        _column("Model", "string", ".spec.model", "What is served."),
        _column("Ready", "integer", ".status.readyReplicas", "Replicas that are ready."),
        _column("Desired", "integer", ".spec.replicas", "Replicas that are asked for."),
        _column("TP", "integer", ".spec.tensorParallelSize", "Accelerators that each layer is spread over."),
        _column("PP", "integer", ".spec.pipelineParallelSize", "Groups of layers."),
        _column("Status", "string", f"{ready}.reason", "Why the model is ready or not, in one word."),
        _column("Age", "date", ".metadata.creationTimestamp", "Since when it exists."),
        {**_column("Message", "string", f"{ready}.message", "Why the model is ready or not, in words."), "priority": 1},
    ]


def _column(name: str, kind: str, path: str, description: str) -> dict[str, Any]:
    return {"name": name, "type": kind, "description": description, "jsonPath": path}
