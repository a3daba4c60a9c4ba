"""One namespace: who acts in it, what is said to them, and how it stands."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from cluster.given import AnyCluster
from kubelet import Kubelet
from meddler import Meddler

from dp_vllm import names
from dp_vllm.kubernetes_api import APPLY, MERGE, ApiError, KubernetesApi, Object
from dp_vllm_operator.cluster import CHILDREN, MODEL, POD, REVISION, Kind

from .history import Moment, history
from .operators import Running

SECONDS: Final = 40.0
"""How long things may take on a busy machine."""

LEASES: Final = Kind("coordination.k8s.io/v1", "leases")
CLASSES: Final = Kind("storage.k8s.io/v1", "storageclasses")
VOLUMES: Final = Kind("v1", "persistentvolumes")


@dataclass(slots=True)
class Scene:
    """A namespace."""

    namespace: str
    api: KubernetesApi
    """As administrator."""
    cluster: AnyCluster
    kubelet: Kubelet
    meddler: Meddler
    meddled: Path
    """The kubeconfig that leads through the meddler."""
    folder: Path
    """For logs."""
    running: list[Running] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)
    """Paths of what is in no namespace, and ends with the scene."""

    # operators

    async def operator(
        self, *flags: str, kubeconfig: Path | None = None, identity: str = "operator", ready: bool = True
    ) -> Running:
        """One more, through the meddler unless `kubeconfig` says otherwise."""
        told = ("--namespace", self.namespace, *flags)
        made = Running.start(self.folder, kubeconfig or self.meddled, *told, identity=identity)
        self.running.append(made)
        return await made.ready() if ready else made

    async def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        call = ("--namespace", self.namespace, *arguments)
        return await asyncio.to_thread(self.cluster.kubectl, *call, stdin=stdin)

    # what a user says

    async def apply(self, name: str = "m", *, annotations: dict[str, str] | None = None, **spec: Any) -> Object:
        """Apply a DPModel; what was said before and is not said now is no more."""
        body = {
            "apiVersion": MODEL.api_version,
            "kind": names.KIND,
            "metadata": {"name": name, "annotations": annotations or {}},
            "spec": simple() | spec,
        }
        query = {"fieldManager": "user", "force": "true", "fieldValidation": "Strict"}
        path = MODEL.path(self.namespace, name)
        return await self.api.request("PATCH", path, query=query, body=body, content_type=APPLY)

    async def scale(self, replicas: int, name: str = "m") -> None:
        body = {"spec": {"replicas": replicas}}
        await self.patch(MODEL, name, body, subresource="scale")

    async def annotate(self, name: str = "m", **annotations: str | None) -> None:
        """Annotations are named by the last part of their names."""
        said = {f"{names.API_GROUP}/{key}": value for key, value in annotations.items()}
        await self.patch(MODEL, name, {"metadata": {"annotations": said}})

    async def patch(self, kind: Kind, name: str, body: Object, *, subresource: str = "") -> Object:
        path = kind.path(self.namespace, name, subresource)
        return await self.api.request("PATCH", path, body=body, content_type=MERGE)

    async def create(self, kind: Kind, body: Object) -> Object:
        return await self.api.request("POST", kind.path(self.namespace), body=body)

    async def delete(self, kind: Kind, name: str, **options: Any) -> None:
        await self.api.request("DELETE", kind.path(self.namespace, name), body=options or None)

    async def evict(self, pod: str) -> int:
        """Ask for a pod's eviction; the status of the answer."""
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": self.namespace}}
        try:
            await self.api.request("POST", POD.path(self.namespace, pod, "eviction"), body=body)
        except ApiError as error:
            return error.status
        return 201

    async def volume(self, claim: str) -> str:
        """A volume of 10 GiB for a claim of this namespace; its storage class. Both are deleted with it."""
        wanted = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": self.namespace, "name": claim}
        spec = {
            "capacity": {"storage": "10Gi"},
            "accessModes": ["ReadWriteMany"],
            "hostPath": {"path": "/nowhere"},
            "persistentVolumeReclaimPolicy": "Retain",
            "claimRef": wanted,
            "storageClassName": self.namespace,
        }
        name = f"{self.namespace}-{claim}"
        classes: Object = {"metadata": {"name": self.namespace}, "provisioner": "none", "allowVolumeExpansion": True}
        await self.api.request("POST", CLASSES.path(), body=classes)
        body = {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": spec}
        await self.api.request("POST", VOLUMES.path(), body=body)
        self.elsewhere += [CLASSES.path(name=self.namespace), VOLUMES.path(name=name)]
        return self.namespace

    # what there is

    async def get(self, kind: Kind, name: str) -> Object:
        return await self.api.request("GET", kind.path(self.namespace, name))

    async def listed(self, kind: Kind, selector: str = f"{names.MANAGED_BY_LABEL}={names.OPERATOR}") -> list[Object]:
        answer = await self.api.request("GET", kind.path(self.namespace), query={"labelSelector": selector})
        items: list[Object] = answer["items"]
        return items

    async def pods(self, name: str = "m", *, all_: bool = False) -> list[Object]:
        """The model's replicas by name, without those that are about to be gone."""
        selector = f"{names.MODEL_LABEL}={name},{names.COMPONENT_LABEL}={names.REPLICA}"
        found = await self.listed(POD, selector)
        return [pod for pod in found if all_ or "deletionTimestamp" not in pod["metadata"]]

    async def pod_names(self, name: str = "m") -> list[str]:
        return sorted(pod["metadata"]["name"] for pod in await self.pods(name))

    async def revisions_of_pods(self, name: str = "m") -> list[int]:
        return sorted(int(pod["metadata"]["labels"][names.REVISION_LABEL]) for pod in await self.pods(name))

    async def children(self) -> dict[str, Object]:
        """Everything that the operator made but pods of Deployments, by `plural/name`."""
        found = {}
        for kind in (*CHILDREN, REVISION, POD):
            for body in await self.listed(kind):
                if kind is not POD or body["metadata"]["labels"][names.COMPONENT_LABEL] == names.REPLICA:
                    found[f"{kind.plural}/{body['metadata']['name']}"] = body
        return found

    async def condition(self, kind: str, name: str = "m") -> Object:
        """Empty if it is of an old generation."""
        model = await self.get(MODEL, name)
        found = [one for one in model.get("status", {}).get("conditions", ()) if one["type"] == kind]
        return found[0] if found and found[0]["observedGeneration"] == model["metadata"]["generation"] else {}

    @contextlib.asynccontextmanager
    async def history(self, name: str = "m") -> AsyncIterator[list[Moment]]:
        """All that becomes of the model's replicas while the block runs, change by change."""
        selector = f"{names.MODEL_LABEL}={name},{names.COMPONENT_LABEL}={names.REPLICA}"
        async with history(self.api, POD.path(self.namespace), selector) as moments:
            yield moments

    # waiting

    async def until(self, holds: Callable[[], Awaitable[object]], what: str = "", *, seconds: float = SECONDS) -> None:
        """Wait until something that is asked for is true."""
        end = time.monotonic() + seconds
        while not await holds():
            if time.monotonic() > end:
                raise AssertionError(f"waited {seconds:g} s in vain: {what}\n{await self.told()}")
            await asyncio.sleep(0.2)

    async def until_condition(
        self, kind: str, reason: str, status: str | None = None, *, name: str = "m", seconds: float = SECONDS
    ) -> Object:
        """Wait for a condition with this reason; the condition."""
        seen: Object = {}

        async def there() -> bool:
            nonlocal seen
            seen = await self.condition(kind, name)
            return seen.get("reason") == reason and status in (None, seen["status"])

        await self.until(there, f"{kind} {status or ''} {reason}", seconds=seconds)
        return seen

    async def until_ready(self, name: str = "m", *, replicas: int | None = None, seconds: float = SECONDS) -> None:
        """Wait until the model stands as its spec says, and nothing goes on any more."""

        async def is_ready() -> bool:
            model = await self.get(MODEL, name)
            status, wanted = model.get("status", {}), model["spec"]["replicas"]
            counts = [status.get(f"{kind}eplicas") for kind in ("r", "readyR", "updatedR", "availableR")]
            conditions = {one["type"]: one for one in status.get("conditions", ())}
            return (
                replicas in (None, wanted)
                and counts == [wanted] * 4
                and all(one["observedGeneration"] == model["metadata"]["generation"] for one in conditions.values())
                and conditions["Ready"]["status"] == "True"
                and conditions["Progressing"]["reason"] == "Complete"
                and len(await self.pods(name, all_=True)) == wanted
            )

        await self.until(is_ready, f"{name} is ready", seconds=seconds)

    async def told(self) -> str:
        """For a failure: what the model says, and the ends of the operators' logs."""
        models = await self.listed(MODEL, "")
        said = [f"{m['metadata']['name']}: {m['spec']} {m.get('status')}" for m in models]
        pods = await self.listed(POD, names.MODEL_LABEL)
        said += [f"{pod['metadata']['name']}: {pod['status'].get('phase')}" for pod in pods]
        return "\n".join([*said, *(f"{o.log} (alive: {o.alive})\n{o.output()[-4000:]}" for o in self.running)])


def simple() -> dict[str, Any]:
    """A spec that is as small as it gets, and whose replicas end at once."""
    return {"model": "org/m", "rollout": {"drainTimeoutSeconds": 0}}
