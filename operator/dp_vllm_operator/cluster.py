"""Every call that the operator makes to the API server, each under a name that says what it is for.

Reads ask for the present state, never for a cached one. What is deleted is named by its uid too, and a status by its
object's, so that a late write hits nothing that came after. It decides nothing.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from dp_vllm import names
from dp_vllm.kubernetes_api import APPLY, MERGE, ApiError, KubernetesApi, Object

YAML: Final = "application/yaml"

OURS: Final = f"{names.MANAGED_BY_LABEL}={names.OPERATOR}"
"""Selects everything that the operator made."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of object that belongs to a namespace."""

    api_version: str
    plural: str

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """The path of an object, or of all in a namespace or in the cluster."""
        root = "/api/" if "/" not in self.api_version else "/apis/"
        parts = [root + self.api_version, *(("namespaces", namespace) if namespace else ()), self.plural]
        return "/".join(part for part in (*parts, name, subresource) if part)


MODEL: Final = Kind(f"{names.API_GROUP}/{names.API_VERSION}", names.PLURAL)
POD: Final = Kind("v1", "pods")
EVENT: Final = Kind("v1", "events")
REVISION: Final = Kind("apps/v1", "controllerrevisions")
CHILDREN: Final = (
    Kind("v1", "configmaps"),
    Kind("v1", "serviceaccounts"),
    Kind("v1", "services"),
    Kind("v1", "persistentvolumeclaims"),
    Kind("apps/v1", "deployments"),
    Kind("batch/v1", "jobs"),
    Kind("networking.k8s.io/v1", "networkpolicies"),
    Kind("policy/v1", "poddisruptionbudgets"),
    Kind("rbac.authorization.k8s.io/v1", "rolebindings"),
)
"""What the operator makes beside pods and revisions."""


def is_refusal(error: ApiError) -> bool:
    """Whether the API server does not want an object: it is invalid, a policy forbids it, or a webhook is away.

    A webhook that does not answer may be away for long, so a person has to know.
    """
    return error.status in (400, 403, 422) or (error.status == 500 and "failed calling webhook" in error.message)


class Cluster:
    """The API server, to the operator."""

    def __init__(self, api: KubernetesApi) -> None:
        self._api = api

    # reading

    async def model(self, namespace: str, name: str) -> Object | None:
        """A DPModel, None if there is none."""
        return await self._get(MODEL, namespace, name)

    async def models(self, namespaces: Sequence[str]) -> list[Object]:
        """All DPModels, of these namespaces or of the cluster."""
        return [model for namespace in namespaces or ("",) for model in await self._list(MODEL, namespace)]

    async def all_pods(self, namespaces: Sequence[str]) -> list[Object]:
        """The pods of all models, of these namespaces or of the cluster."""
        return [pod for namespace in namespaces or ("",) for pod in await self._list(POD, namespace, OURS)]

    async def pods(self, namespace: str, model: str) -> list[Object]:
        """The pods that bear the model's label, of all components, whoever owns them."""
        return await self._list(POD, namespace, f"{names.MODEL_LABEL}={model}")

    async def revisions(self, namespace: str, model: str) -> list[Object]:
        """The stored revisions that bear the model's label."""
        return await self._list(REVISION, namespace, f"{names.MODEL_LABEL}={model}")

    async def children(self, kind: Kind, namespace: str, model: str) -> list[Object]:
        """The objects of a kind that bear the model's label."""
        return await self._list(kind, namespace, f"{names.MODEL_LABEL}={model}")

    async def child(self, kind: Kind, namespace: str, name: str) -> Object | None:
        """One object, None if there is none."""
        return await self._get(kind, namespace, name)

    async def pod(self, namespace: str, name: str) -> Object | None:
        """One pod, whatever labels it bears, None if there is none."""
        query = {"fieldSelector": f"metadata.name={name}"}
        answer = await self._api.request("GET", POD.path(namespace), query=query)
        return next(iter(answer["items"]), None)

    async def log(
        self, namespace: str, pod: str, *, lines: int, container: str = names.ENGINE_CONTAINER, previous: bool = False
    ) -> list[str]:
        """The last lines of a container's log; none if it has none to show."""
        query = {"container": container, "tailLines": str(lines)} | ({"previous": "true"} if previous else {})
        try:
            text = await self._api.text("GET", POD.path(namespace, pod, "log"), query=query)
        except ApiError as error:
            if error.status in (400, 404):  # not started yet, or gone
                return []
            raise
        return text.decode("utf-8", "replace").splitlines()

    async def warnings(self, namespace: str, pod: str, uid: str) -> list[Object]:
        """What the cluster has warned of one pod."""
        selector = f"involvedObject.kind=Pod,involvedObject.name={pod},involvedObject.uid={uid},type=Warning"
        answer = await self._api.request("GET", EVENT.path(namespace), query={"fieldSelector": selector})
        items: list[Object] = answer["items"]
        return items

    async def most_accelerators(self, resource: str) -> int | None:
        """How many of an extended resource the node with the most of them has; None without the right to look."""
        try:
            nodes = await self._list(Kind("v1", "nodes"), "")
        except ApiError as error:
            if error.status == 403:
                return None
            raise
        amounts = [node.get("status", {}).get("allocatable", {}).get(resource, "0") for node in nodes]
        return max((int(amount) for amount in amounts if amount.isdigit()), default=0)

    # writing

    async def try_pod(self, namespace: str, pod: Object) -> None:
        """Let the API server judge a pod without making it, and its every field. Raises ApiError with its words."""
        query = {"dryRun": "All", "fieldValidation": "Strict"}
        await self._api.request("POST", POD.path(namespace), query=query, body=pod)

    async def create(self, kind: Kind, namespace: str, body: Object) -> Object:
        """Make an object that does not exist yet."""
        query = {"fieldManager": names.OPERATOR}
        return await self._api.request("POST", kind.path(namespace), query=query, body=body)

    async def store_revision(self, namespace: str, body: Object) -> Object:
        """Make a ControllerRevision.

        As YAML: the API server then writes its data as it always does. It keeps JSON as it came, and whoever patches
        the object later makes it write the data anew, which it takes for a change, and refuses. So would be the
        garbage collector, which could then orphan nothing of the model.
        """
        query = {"fieldManager": names.OPERATOR}
        text = _in_yaml(body)
        return await self._api.request("POST", REVISION.path(namespace), query=query, body=text, content_type=YAML)

    async def annotate_revision(self, namespace: str, name: str, annotations: Mapping[str, str]) -> None:
        """Set annotations of a revision, unless it is gone."""
        try:
            await self.patch(REVISION, namespace, name, {"metadata": {"annotations": dict(annotations)}})
        except ApiError as error:
            if error.status != 404:
                raise

    async def apply(self, kind: Kind, namespace: str, name: str, body: Object) -> Object:
        """Make our part of an object be so."""
        query = {"fieldManager": names.OPERATOR, "force": "true"}
        return await self._api.request("PATCH", kind.path(namespace, name), query=query, body=body, content_type=APPLY)

    async def patch(self, kind: Kind, namespace: str, name: str, patch: Object) -> None:
        """Change these fields of one of our objects."""
        query = {"fieldManager": names.OPERATOR}
        await self._api.request("PATCH", kind.path(namespace, name), query=query, body=patch, content_type=MERGE)

    async def delete(self, kind: Kind, namespace: str, name: str, uid: str) -> None:
        """Delete this very object; nothing happens if it is gone already."""
        body = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": uid},
                "propagationPolicy": "Background"}  # fmt: skip
        try:
            await self._api.request("DELETE", kind.path(namespace, name), body=body)
        except ApiError as error:
            if error.status not in (404, 409):
                raise

    async def write_status(self, namespace: str, name: str, uid: str, status: Mapping[str, Any]) -> None:
        """Replace the status that we wrote before."""
        body = {
            "apiVersion": MODEL.api_version,
            "kind": names.KIND,
            "metadata": {"name": name, "namespace": namespace, "uid": uid},
            "status": dict(status),
        }
        query = {"fieldManager": names.OPERATOR, "force": "true"}
        path = MODEL.path(namespace, name, "status")
        await self._api.request("PATCH", path, query=query, body=body, content_type=APPLY)

    # how

    async def _get(self, kind: Kind, namespace: str, name: str) -> Object | None:
        try:
            return await self._api.request("GET", kind.path(namespace, name))
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    async def _list(self, kind: Kind, namespace: str, selector: str = "") -> list[Object]:
        query = {"labelSelector": selector} if selector else {}
        answer = await self._api.request("GET", kind.path(namespace), query=query)
        said = {"apiVersion": answer["apiVersion"], "kind": answer["kind"].removesuffix("List")}
        return [said | item for item in answer["items"]]  # which leave it out


def _in_yaml(body: Object) -> str:
    """JSON is YAML, but for characters that YAML takes for line breaks or does not take at all."""
    text = json.dumps(body, ensure_ascii=False)
    return re.sub("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]", lambda one: f"\\u{ord(one[0]):04x}", text)
