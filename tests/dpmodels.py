"""DPModels that tests apply. No operator touches them."""

import json
from typing import Any

from dp_vllm import names


def dpmodel(name: str, **spec: Any) -> dict[str, Any]:
    """A DPModel, with a model unless `spec` names one."""
    return {
        "apiVersion": f"{names.API_GROUP}/{names.API_VERSION}",
        "kind": names.KIND,
        "metadata": {"name": name, "annotations": {names.RECONCILE_ANNOTATION: "disabled"}},
        "spec": {"model": "org/m"} | spec,
    }


def manifest(name: str, **spec: Any) -> str:
    """The same for kubectl."""
    return json.dumps(dpmodel(name, **spec))
