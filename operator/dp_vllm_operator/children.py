"""Keeps what a model has beside its replicas as it should be: gateway, Service, budgets, policies, claim, download.

A child is written only if it is missing or differs: even an apply that changes nothing is a request. One that is
somebody else's is left alone and told of. Gateways that an operator's upgrade changes roll one model after the other.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from dp_vllm.kubernetes_api import ApiError, Object
from dp_vllm_operator.cluster import CHILDREN, Cluster, Kind, is_refusal
from dp_vllm_operator.model import Model
from dp_vllm_operator.queue import Key
from dp_vllm_operator.render.children import Child, as_applied, differs, must_be_made_anew, owned_by
from dp_vllm_operator.trouble import Trouble

DEPLOYMENTS: Final = "deployments"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A model's children after they were looked after."""

    live: Mapping[tuple[str, str], Object]
    """Those that are the model's, by plural and name."""
    conflicts: tuple[str, ...] = ()
    """Those that are somebody else's: `services/qwen3`."""
    refused: Trouble | None = None
    """Why the API server refused one."""
    waits: bool = False
    """Its gateway is to change once another model's gateway has."""

    def of(self, plural: str) -> dict[str, Object]:
        """Those of a kind, by name."""
        return {name: body for (kind, name), body in self.live.items() if kind == plural}

    def holds(self, version: str) -> bool:
        """Whether one of them is known as of this version: then a watch that tells of it tells nothing new."""
        return any(body["metadata"]["resourceVersion"] == version for body in self.live.values())


class Children:
    """Owns whose gateway an upgrade changes now."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._upgrading: Key | None = None

    async def keep(
        self, model: Model, wanted: Sequence[Child], known: Mapping[str, Mapping[str, Object]] | None = None
    ) -> Kept:
        """Make the model's children be `wanted`, and delete those that it no longer wants.

        Of some kinds they may be `known` already, by plural and name: nobody has touched them since they were read.
        """
        present = await self._present(model, known or {})
        live: dict[tuple[str, str], Object] = {}
        conflicts: list[str] = []
        refused: Trouble | None = None
        waits = False
        for child in wanted:
            body = present.get((child.plural, child.name))
            try:
                body = body or await self._made(model, child)
                if not owned_by(body, model):
                    conflicts.append(f"{child.plural}/{child.name}")
                    continue
                if differs(body, child):
                    if self._takes_turn(model, child):
                        body = await self._changed(model, child, body)
                    else:
                        waits = True
            except ApiError as error:
                if not is_refusal(error):
                    raise
                said = f"the API server refuses the {child.kind} {child.name}: {error.message}"
                refused = Trouble.of(f"{child.kind}Refused", said, needs_person=True)
            if body is not None:
                live[child.plural, child.name] = body
                self._end_turn(model, child, body)
        await self._remove(model, wanted, present)
        return Kept(live=live, conflicts=tuple(conflicts), refused=refused, waits=waits)

    def forget(self, key: Key) -> None:
        """The model is gone, or left alone: others need not wait for its gateway."""
        if self._upgrading == key:
            self._upgrading = None

    async def see(self, model: Model) -> Kept:
        """What there is, and nothing done about it."""
        self.forget(Key(model.namespace, model.name))
        present = await self._present(model, {})
        return Kept(live={key: body for key, body in present.items() if owned_by(body, model)})

    async def _present(self, model: Model, known: Mapping[str, Mapping[str, Object]]) -> dict[tuple[str, str], Object]:
        kinds = [kind for kind in CHILDREN if kind.plural not in known]
        lists = await asyncio.gather(*(self._cluster.children(kind, model.namespace, model.name) for kind in kinds))
        listed = {
            (kind.plural, body["metadata"]["name"]): body
            for kind, bodies in zip(kinds, lists, strict=True)
            for body in bodies
        }
        return listed | {(kind, name): body for kind, bodies in known.items() for name, body in bodies.items()}

    async def _made(self, model: Model, child: Child) -> Object:
        """A child that no label led to: make it, or find whose it is."""
        try:
            return await self._cluster.create(_kind(child), model.namespace, child.creation)
        except ApiError as error:
            if error.status != 409:
                raise
            present = await self._cluster.child(_kind(child), model.namespace, child.name)
            if present is None:
                raise
            return present

    async def _changed(self, model: Model, child: Child, body: Object) -> Object:
        kind, namespace = _kind(child), model.namespace
        if must_be_made_anew(body, child):
            await self._cluster.delete(kind, namespace, child.name, body["metadata"]["uid"])
            return await self._cluster.create(kind, namespace, child.creation)
        if patch := as_applied(body):
            await self._cluster.patch(kind, namespace, child.name, patch)
        return await self._cluster.apply(kind, namespace, child.name, child.application(body))

    def _takes_turn(self, model: Model, child: Child) -> bool:
        """Whether the child may be changed now; if it is a gateway that nobody has asked for, no other may then."""
        if child.plural != DEPLOYMENTS or _asked_by_user(model):
            return True
        key = Key(model.namespace, model.name)
        if self._upgrading not in (None, key):
            return False
        self._upgrading = key
        return True

    def _end_turn(self, model: Model, child: Child, body: Object) -> None:
        mine = self._upgrading == Key(model.namespace, model.name)
        if mine and child.plural == DEPLOYMENTS and (_rolled_out(body) or _has_failed(body)):
            self._upgrading = None

    async def _remove(self, model: Model, wanted: Sequence[Child], present: Mapping[tuple[str, str], Object]) -> None:
        names = {(child.plural, child.name) for child in wanted}
        for (plural, name), body in present.items():
            if (plural, name) not in names and _is_controlled(body, model):
                kind = next(kind for kind in CHILDREN if kind.plural == plural)
                await self._cluster.delete(kind, model.namespace, name, body["metadata"]["uid"])


def _kind(child: Child) -> Kind:
    return Kind(child.api_version, child.plural)


def _is_controlled(body: Object, model: Model) -> bool:
    """Not a claim that outlives the model: nobody but a person deletes that."""
    return bool(body["metadata"].get("ownerReferences")) and owned_by(body, model)


def _asked_by_user(model: Model) -> bool:
    """Whether the spec was edited since the model was last looked at, so that a change is what its user waits for."""
    return model.status.get("observedGeneration") != model.generation


def _has_failed(deployment: Object) -> bool:
    """Its rollout has not gone on for ten minutes: what ails this one need not ail the others."""
    conditions = deployment.get("status", {}).get("conditions", ())
    return any(one.get("reason") == "ProgressDeadlineExceeded" for one in conditions)


def _rolled_out(deployment: Object) -> bool:
    wanted = deployment["spec"].get("replicas", 1)
    status = deployment.get("status", {})
    return bool(
        status.get("observedGeneration", 0) >= deployment["metadata"]["generation"]
        and status.get("replicas", 0) == status.get("updatedReplicas", 0) >= wanted
        and status.get("availableReplicas", 0) >= wanted
    )
