"""A DPModel as the operator sees it. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from dp_vllm import names, spec
from dp_vllm.spec import DPModelSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """One DPModel object at one moment."""

    namespace: str
    name: str
    uid: str
    generation: int
    spec: DPModelSpec
    annotations: Mapping[str, str]
    status: Mapping[str, Any]
    """As it was last written."""

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> Self:
        """Read the object's JSON. Raises `dp_vllm.spec.BadSpec`."""
        metadata = body["metadata"]
        return cls(
            namespace=metadata["namespace"],
            name=metadata["name"],
            uid=metadata["uid"],
            generation=metadata["generation"],
            spec=spec.read(body.get("spec", {})),
            annotations=metadata.get("annotations", {}),
            status=body.get("status", {}),
        )

    def labels(self, component: str) -> dict[str, str]:
        """What every child of the model bears."""
        return {
            names.NAME_LABEL: names.PRODUCT,
            names.INSTANCE_LABEL: self.name,
            names.COMPONENT_LABEL: component,
            names.MANAGED_BY_LABEL: names.OPERATOR,
            names.MODEL_LABEL: self.name,
        }

    @property
    def owner(self) -> dict[str, Any]:
        """The owner reference of the model's children.

        Without blockOwnerDeletion, which would need a right on finalizers.
        """
        return {
            "apiVersion": f"{names.API_GROUP}/{names.API_VERSION}",
            "kind": names.KIND,
            "name": self.name,
            "uid": self.uid,
            "controller": True,
        }
