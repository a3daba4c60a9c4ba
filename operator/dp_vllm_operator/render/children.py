"""All that a model has beside its replicas and revisions, and whether a live object still is what it should be. Pure.

Each object bears a hash of what was asked for: where something is asked for no more, the live object still contains the
rest. What is said at creation only (`create_only`) is never compared, and every apply says it as it is by then:
server-side apply would take out what is left out.
"""

import functools
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import Any, Final

from msgspec import UNSET

from dp_vllm import names
from dp_vllm.spec import BadSpec
from dp_vllm_operator.model import Model
from dp_vllm_operator.render import cache, gateway, protection, volumes
from dp_vllm_operator.render.contained import amount, contains
from dp_vllm_operator.render.pod import pod_template
from dp_vllm_operator.revision import user_part
from dp_vllm_operator.settings import Settings

Json = dict[str, Any]

APPLIED_ANNOTATION: Final = "dpvllm.io/applied"
_PROGRAMS: Final = ("engine_life.py", "download.py")


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """One object as it should be."""

    api_version: str
    plural: str
    kind: str
    name: str
    component: str
    body: Json
    """Always so; with its hash."""
    create_only: Json = field(default_factory=dict)
    """How it is made, and then left to others."""

    @property
    def creation(self) -> Json:
        """The object to make, if there is none."""
        return _laid(self.body, self.create_only)

    def application(self, live: Mapping[str, Any]) -> Json:
        """The object to apply to the live one; to that very one."""
        body = _laid(self.body, _as_in(live, self.create_only))
        return _laid(_not_smaller(live, body), {"metadata": {"uid": live["metadata"]["uid"]}})


_CLAIMS: Final = ("v1", "persistentvolumeclaims", "PersistentVolumeClaim")
_DEPLOYMENTS: Final = ("apps/v1", "deployments", "Deployment")
_JOBS: Final = ("batch/v1", "jobs", "Job")
_POLICIES: Final = ("networking.k8s.io/v1", "networkpolicies", "NetworkPolicy")
_BUDGETS: Final = ("policy/v1", "poddisruptionbudgets", "PodDisruptionBudget")
_BINDINGS: Final = ("rbac.authorization.k8s.io/v1", "rolebindings", "RoleBinding")


def children(model: Model, settings: Settings) -> tuple[Child, ...]:
    """Every object that the model should have beside its replicas, in the order in which they need each other."""
    return (*_for_replicas(model, settings), *_for_cache(model, settings), *_for_gateway(model, settings))


def differs(live: Mapping[str, Any], desired: Child) -> bool:
    """Whether the live object has to be written. In a list, its kind is not said."""
    body = {key: value for key, value in desired.body.items() if key not in ("apiVersion", "kind")}
    return not contains(live, _not_smaller(live, body))


def must_be_made_anew(live: Mapping[str, Any], desired: Child) -> bool:
    """Whether only another object can be as desired: what a binding binds to cannot be changed."""
    return "roleRef" in desired.body and not contains(live.get("roleRef"), desired.body["roleRef"])


def owned_by(live: Mapping[str, Any], model: Model) -> bool:
    """Whether it is this model's. A claim that outlives its model has no owner, and is the next one's of that name."""
    metadata = live["metadata"]
    owners = [owner["uid"] for owner in metadata.get("ownerReferences", ()) if owner.get("controller")]
    if owners:
        return owners == [model.uid]
    return contains(metadata.get("labels", {}), model.labels(cache.CACHE))


def as_applied(live: Mapping[str, Any]) -> Json | None:
    """A merge patch that lets what we have created count as what we have applied; None if nothing is left to do.

    Without it, an apply takes out nothing that the creation brought: to the API server that was somebody else.
    """
    fields = live["metadata"].get("managedFields", [])
    created = [entry for entry in fields if _is_ours(entry) and entry["operation"] == "Update"]
    if not created:
        return None
    applied = [entry for entry in fields if _is_ours(entry) and entry["operation"] == "Apply"]
    ours: Json = {**created[0], "operation": "Apply"}
    for entry in (*created[1:], *applied):
        ours["fieldsV1"] = _laid(ours["fieldsV1"], entry["fieldsV1"])
    others = [entry for entry in fields if entry not in created and entry not in applied]
    metadata = {key: live["metadata"][key] for key in ("uid", "resourceVersion")}
    return {"metadata": metadata | {"managedFields": [*others, ours]}}


# Which


def _for_replicas(model: Model, settings: Settings) -> Iterator[Child]:
    make = _Maker(model, names.REPLICA)
    yield make(("v1", "configmaps", "ConfigMap"), volumes.programs_name(model.name), {"data": dict(_programs())})
    budget = protection.disruption_budget(model, names.REPLICA)
    yield make(_BUDGETS, f"{model.name}-replicas", {"spec": budget})
    yield make(_POLICIES, f"{model.name}-replicas", {"spec": protection.network_policy(model, settings)})


def _for_cache(model: Model, settings: Settings) -> Iterator[Child]:
    if (claim := model.spec.cache.claim) is not UNSET:
        make = _Maker(model, cache.CACHE, owned=not claim.retain)
        yield make(_CLAIMS, str(volumes.claim_name(model.name, model.spec.cache)), {"spec": cache.claim(claim)})
    part = user_part(model, settings)
    if wanted := volumes.download(part):
        try:
            job = cache.download_job(model, wanted, pod_template(model.name, part))
        except BadSpec:
            return  # no replica can be rendered either, and that is told
        make = _Maker(model, names.DOWNLOAD)
        yield make(_JOBS, cache.download_name(model, wanted), {}, {"spec": job})


def _for_gateway(model: Model, settings: Settings) -> Iterator[Child]:
    make, name, replicas = _Maker(model, names.GATEWAY), gateway.gateway_name(model), model.spec.gateway.replicas
    yield make(("v1", "serviceaccounts", "ServiceAccount"), name, {"automountServiceAccountToken": False})
    yield make(_BINDINGS, name, gateway.role_binding(model, settings))
    yield make(_BUDGETS, name, {"spec": protection.disruption_budget(model, names.GATEWAY)})
    at_first = {"spec": {"replicas": gateway.GATEWAYS}} if replicas is UNSET else {}
    yield make(_DEPLOYMENTS, name, {"spec": gateway.deployment(model, settings)}, at_first)
    yield make(("v1", "services", "Service"), model.name, {"spec": gateway.service(model)})


@dataclass(frozen=True, slots=True)
class _Maker:
    """Makes children of one component."""

    model: Model
    component: str
    owned: bool = True

    def __call__(self, kind: tuple[str, str, str], name: str, content: Json, create_only: Json | None = None) -> Child:
        metadata: Json = {
            "name": name,
            "namespace": self.model.namespace,
            "labels": self.model.labels(self.component),
        }
        if self.owned:
            metadata["ownerReferences"] = [self.model.owner]
        api_version, plural, kind_name = kind
        body = {"apiVersion": api_version, "kind": kind_name, "metadata": metadata, **content}
        return Child(
            api_version=api_version,
            plural=plural,
            kind=kind_name,
            name=name,
            component=self.component,
            body=_laid(body, {"metadata": {"annotations": {APPLIED_ANNOTATION: _hash(body)}}}),
            create_only=create_only or {},
        )


# How


@functools.cache
def _programs() -> Mapping[str, str]:
    folder = resources.files("dp_vllm_operator.in_pod")
    return {name: folder.joinpath(name).read_text("utf-8") for name in _PROGRAMS}


def _hash(body: Json) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:16]


def _laid(under: Mapping[str, Any], over: Mapping[str, Any]) -> Json:
    """Both in one: map by map, everything else as it is in `over`."""
    maps = {key: _laid(under[key], value) for key, value in over.items()
            if isinstance(value, Mapping) and isinstance(under.get(key), Mapping)}  # fmt: skip
    return {**under, **over, **maps}


def _as_in(live: Mapping[str, Any], create_only: Mapping[str, Any]) -> Json:
    """What `create_only` says something of, as it is in the live object."""
    taken = {}
    for key, value in create_only.items():
        if isinstance(value, Mapping) and isinstance(live.get(key), Mapping):
            taken[key] = _as_in(live[key], value)
        elif key in live:
            taken[key] = live[key]
    return taken


def _not_smaller(live: Mapping[str, Any], body: Json) -> Json:
    """With the live size, if it is a claim that has grown: claims do not shrink."""
    has, asks = (one.get("spec", {}).get("resources", {}).get("requests", {}).get("storage") for one in (live, body))
    larger = asks is not None and (amount(has) or 0) > (amount(asks) or 0)
    return _laid(body, {"spec": {"resources": {"requests": {"storage": has}}}}) if larger else body


def _is_ours(entry: Mapping[str, Any]) -> bool:
    return entry.get("manager") == names.OPERATOR and "subresource" not in entry
