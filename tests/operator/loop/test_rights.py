"""The chart's rules: enough for all that the operator does, and nothing that it does not do."""

import json
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from cluster import binaries
from cluster.audit import Audit, Call
from kubelet import CRASH_LOOP, READY
from stage import Scene

from dp_vllm.kubernetes_api import Object
from dp_vllm_operator.cluster import CHILDREN, MODEL, Kind

pytestmark = [pytest.mark.timeout(240), pytest.mark.own_cluster]

CHART: Final = Path(__file__).parents[3] / "charts" / "dp-vllm"

ROLES: Final = Kind("rbac.authorization.k8s.io/v1", "roles")
BINDINGS: Final = Kind("rbac.authorization.k8s.io/v1", "rolebindings")
CLUSTER_ROLES: Final = Kind("rbac.authorization.k8s.io/v1", "clusterroles")

UNCALLED: Final = {
    ("clusterroles", "bind"): "checked when a RoleBinding is made",
    ("persistentvolumeclaims", "delete"): "a claim with retain: false that is asked for no more, a kind that is fixed",
    ("controllerrevisions", "delete"): "the eleventh revision",
    ("jobs", "patch"): "a Job whose labels somebody has changed",
    ("serviceaccounts", "patch"): "the same of a ServiceAccount",
    ("serviceaccounts", "delete"): "a child that another release asks for no more",
    ("configmaps", "delete"): "the same",
    ("services", "delete"): "the same",
    ("deployments", "delete"): "the same",
    ("networkpolicies", "delete"): "the same",
    ("poddisruptionbudgets", "delete"): "the same",
    ("persistentvolumeclaims", "get"): "one that exists and bears no label of ours",
    ("deployments", "get"): "the same",
    ("jobs", "get"): "the same",
    ("networkpolicies", "get"): "the same",
    ("poddisruptionbudgets", "get"): "the same",
    ("rolebindings", "get"): "the same",
    ("serviceaccounts", "get"): "the same",
    ("services", "get"): "the same",
    ("configmaps", "get"): "the same",
    ("events", "patch"): "an Event that is noted again after a minute",
    ("events", "list"): "the warnings of a pod whose containers are not made after 15 seconds",
}
"""Rights that this flow does not use, and what does."""


def rendered(namespace: str) -> list[Object]:
    """The chart's objects for one namespace."""
    helm = binaries.find("helm")
    assert helm, "helm is missing: python tests/cluster build helm"
    values = ["--set", f"namespaces={{{namespace}}}", "--namespace", namespace]
    command = [str(helm), "template", "dp-vllm", str(CHART), *values]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [body for body in yaml.safe_load_all(done.stdout) if body]


async def installed(scene: Scene, *, without: tuple[str, str] = ("", "")) -> tuple[list[Object], Path, str]:
    """The chart's rights in the namespace, less one.

    Its rules, the login of whom it gives them to, and the flag that says which role gateways get.
    """
    user = f"operator-{scene.namespace}"
    rules: list[Object] = []
    flag = ""
    for body in rendered(scene.namespace):
        if body["kind"] == "ClusterRole":
            query = {"fieldManager": "user", "force": "true"}
            path = CLUSTER_ROLES.path(name=body["metadata"]["name"])
            await scene.api.request("PATCH", path, query=query, body=body, content_type="application/apply-patch+yaml")
            scene.elsewhere.append(path)
        if body["kind"] == "Deployment":
            words = body["spec"]["template"]["spec"]["containers"][0]["args"]
            (flag,) = (word for word in words if word.startswith("--gateway-cluster-role="))
        if body["kind"] == "Role":
            rules = body["rules"]
            body["rules"] = [_less(rule, *without) for rule in rules]
            await scene.create(ROLES, body)
        if body["kind"] == "RoleBinding":
            body["subjects"] = [{"kind": "User", "name": user, "apiGroup": "rbac.authorization.k8s.io"}]
            await scene.create(BINDINGS, body)
    return rules, scene.cluster.login(user), flag


def _less(rule: Object, resource: str, verb: str) -> Object:
    verbs = [one for one in rule["verbs"] if resource not in rule["resources"] or one != verb]
    return {**rule, "verbs": verbs or ["none"]}


def rights(rules: Iterable[Object]) -> set[tuple[str, str]]:
    return {(resource, verb) for rule in rules for resource in rule["resources"] for verb in rule["verbs"]}


def used(calls: Iterable[Call]) -> set[tuple[str, str]]:
    return {(f"{call.resource}/{call.subresource}".strip("/"), call.verb) for call in calls}


async def lived(scene: Scene) -> None:
    """Everything that usually happens to a model."""
    scene.kubelet.script("m-1-0", CRASH_LOOP)
    claim = {"size": "1Gi", "storageClassName": await scene.volume("m-cache")}
    await scene.apply(replicas=2, cache={"claim": claim})
    await scene.until_condition("Degraded", "CrashLoopBackOff", "True")
    scene.kubelet.script("m-1-0", READY)
    await scene.until_ready()
    await scene.scale(1)
    await scene.until_ready(replicas=1)
    changed: dict[str, Any] = {
        "cache": {"claim": claim | {"size": "2Gi"}},
        "gateway": {"policy": "round-robin", "service": {"port": 81}},
    }
    for model in ("org/a", "org/b"):
        await scene.apply(replicas=1, model=model, **changed)
        await scene.until_ready()
    for kind, name, body in (
        ("configmaps", "m-engine-life", {"data": {"engine_life.py": "x"}}),
        ("networkpolicies", "m-replicas", {"spec": {"podSelector": {"matchLabels": {"a": "b"}}}}),
        ("poddisruptionbudgets", "m-replicas", {"spec": {"maxUnavailable": 2}}),
        ("rolebindings", "m-gateway", {"subjects": []}),
    ):
        await scene.patch(next(one for one in CHILDREN if one.plural == kind), name, body)


async def bound_to_another_role(scene: Scene) -> None:
    """What the operator has to delete: what a binding binds to cannot be changed."""
    binding = await scene.get(BINDINGS, "m-gateway")
    metadata = {key: binding["metadata"][key] for key in ("name", "labels", "ownerReferences")}
    await scene.delete(BINDINGS, "m-gateway")
    await scene.create(BINDINGS, {"metadata": metadata, "roleRef": {**binding["roleRef"], "name": "view"}})


async def test_the_charts_rules_are_enough_and_none_is_for_nothing(scene: Scene, audit: Audit) -> None:
    rules, login, role = await installed(scene)

    def calls() -> list[Call]:
        return [call for call in audit.calls() if call.user == f"operator-{scene.namespace}"]

    async def only_unused(expected: set[tuple[str, str]]) -> bool:
        return rights(rules) - used(calls()) - UNCALLED.keys() == expected

    operator = await scene.operator("--resync-seconds", "5", role, kubeconfig=login)
    await lived(scene)
    await scene.until(lambda: only_unused({("rolebindings", "delete")}), "but one all rights are used")
    operator.kill()
    await bound_to_another_role(scene)
    await scene.operator(role, kubeconfig=login)
    await scene.until(lambda: only_unused(set()), "there is no right that nothing uses")
    assert UNCALLED.keys() <= rights(rules)
    refused = [call for call in calls() if call.code in (401, 403)]
    assert [(one.verb, one.resource, one.subresource) for one in refused if one.resource != "nodes"] == []
    assert "Traceback" not in operator.output()


@pytest.mark.parametrize(
    ("resource", "verb"), [("dpmodels", "list"), ("pods", "create"), ("services", "create"), ("leases", "create")]
)
async def test_a_right_that_is_missing_is_named(scene: Scene, resource: str, verb: str) -> None:
    _, login, role = await installed(scene, without=(resource, verb))
    operator = await scene.operator(role, kubeconfig=login, ready=False)
    if resource != "dpmodels":
        await scene.apply(replicas=1)

    async def is_named() -> bool:
        said = operator.log.read_text() if operator.log.exists() else ""
        told = json.dumps((await scene.listed(MODEL, ""))[0].get("status", {})) if resource != "dpmodels" else ""
        return all(word in said + told for word in (f"cannot {verb} resource", resource))

    await scene.until(is_named, "log or status name the right")
