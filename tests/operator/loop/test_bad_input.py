"""What the schema lets through and cannot be: a sentence in the model's status, and neither a crash nor a storm."""

import asyncio
from typing import Final

import pytest
from kubelet import container
from stage import Scene

from dp_vllm.kubernetes_api import Object
from dp_vllm_operator.cluster import Kind

pytestmark = pytest.mark.timeout(180)

QUOTAS = Kind("v1", "resourcequotas")
SIX_SECONDS_OF_PATIENCE = 60
"""Requests: what an operator may ask in six seconds beside its watches and its Lease."""


def template(**spec: object) -> Object:
    return {"spec": spec}


ONE: Final = {"replicas": 1}
BAD_TEMPLATES: Final = {
    "no-list": (template(containers={"name": "engine"}), "InvalidSpec", "spec.template"),
    "image": (template(containers=[{"name": "engine", "image": "x"}]), "InvalidSpec", "use spec.engine.image"),
    "policy": (template(dnsPolicy="Sometimes"), "InvalidTemplate", 'Unsupported value: "Sometimes"'),
    "label": (template(nodeSelector={"not a label!": "x"}), "InvalidTemplate", "nodeSelector"),
    "mount": (
        template(containers=[{"name": "engine", "volumeMounts": [{"name": "no", "mountPath": "/no"}]}]),
        "InvalidTemplate",
        'Not found: "no"',
    ),
    "class": (template(priorityClassName="no-such"), "InvalidTemplate", "no-such"),
}
"""By the name of a model: what is bad, and which reason and which words tell of it."""


async def quiet(scene: Scene, *, models: int = 1) -> None:
    """Nobody asks again and again."""
    before = len(scene.meddler.asked)
    await asyncio.sleep(6)
    asked = [one for one in scene.meddler.asked[before:] if not one.watches and "/leases" not in one.path]
    assert len(asked) < SIX_SECONDS_OF_PATIENCE * models


async def test_a_name_that_refers_to_a_secret_is_a_name(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """And engines listen on addresses of the family that the operator's own pod has."""
    monkeypatch.setenv("POD_IP", "fd00::7")
    await scene.operator()
    reference = "$(HF_TOKEN)"
    await scene.apply(model=reference, servedModelName=reference, hfTokenSecretRef={"name": "hub"}, gateway=ONE)
    await scene.until_ready(replicas=1)

    ((engine,),) = [pod["spec"]["containers"] for pod in await scene.pods()]
    started = container.words(engine, {"hub": {"token": "hf_secret"}})
    assert started[0] == started[started.index("--served-model-name") + 1] == reference
    assert "hf_secret" not in " ".join(started)
    assert started[started.index("--host") + 1] == "::"
    assert container.environment(engine, {"hub": {"token": "hf_secret"}})["HF_TOKEN"] == "hf_secret"


async def test_templates_that_cannot_be_are_told_of_and_the_old_replicas_go_on(scene: Scene) -> None:
    operator = await scene.operator()
    for name in BAD_TEMPLATES:
        await scene.apply(name, replicas=1, gateway=ONE)
    for name in BAD_TEMPLATES:
        await scene.until_ready(name)

    for name, (bad, reason, words) in BAD_TEMPLATES.items():
        await scene.apply(name, replicas=2, template=bad, gateway=ONE)
        seen = await scene.until_condition("Degraded", reason, "True", name=name)
        assert words in seen["message"]
    await scene.until(lambda: _all_are(scene, [1, 1]), "they are scaled, of the old revision")
    await quiet(scene, models=len(BAD_TEMPLATES))
    assert "Traceback" not in operator.output()

    for name in BAD_TEMPLATES:
        await scene.apply(name, replicas=1, gateway=ONE)
    for name in BAD_TEMPLATES:
        await scene.until_ready(name)


async def _all_are(scene: Scene, revisions: list[int]) -> bool:
    return all([await _are(scene, revisions, name) for name in BAD_TEMPLATES])


async def _are(scene: Scene, revisions: list[int], name: str = "m") -> bool:
    return await scene.revisions_of_pods(name) == revisions


@pytest.mark.exhaustive
async def test_a_template_that_cannot_be_makes_no_first_replica_but_a_sentence(scene: Scene) -> None:
    operator = await scene.operator()
    await scene.apply(replicas=2, template=template(dnsPolicy="Sometimes"))
    seen = await scene.until_condition("Degraded", "InvalidTemplate", "True")
    assert "Sometimes" in seen["message"]
    await quiet(scene)
    assert "Traceback" not in operator.output()
    assert await scene.pods() == []


@pytest.mark.exhaustive
async def test_a_quota_is_told_of_and_its_raise_is_seen(scene: Scene) -> None:
    await scene.create(QUOTAS, {"metadata": {"name": "gpus"}, "spec": {"hard": {"requests.nvidia.com/gpu": "1"}}})
    await scene.operator()
    await scene.apply(replicas=2)
    seen = await scene.until_condition("Degraded", "QuotaExceeded", "True")
    assert "exceeded quota: gpus" in seen["message"]
    await scene.until(lambda: _are(scene, [1]), "one is made")
    await quiet(scene)

    await scene.patch(QUOTAS, "gpus", {"spec": {"hard": {"requests.nvidia.com/gpu": "2"}}})
    await scene.until_ready(seconds=60)


@pytest.mark.exhaustive
async def test_a_path_of_the_node_in_a_restricted_namespace_is_told_of_with_the_way_out(scene: Scene) -> None:
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    await scene.api.request(
        "PATCH", f"/api/v1/namespaces/{scene.namespace}", body={"metadata": {"labels": labels}},
        content_type="application/merge-patch+json",
    )  # fmt: skip
    await scene.operator()
    await scene.apply("m", replicas=1)
    await scene.apply("n", replicas=1, cache={"hostPath": "/models"})

    seen = await scene.until_condition("Degraded", "PodSecurityViolation", "True", name="n")
    assert "pod-security.kubernetes.io/enforce: privileged" in seen["message"]
    await scene.until_ready("m")
    await quiet(scene)


@pytest.mark.exhaustive
async def test_a_webhook_that_does_not_answer_is_told_of_and_holds_up_nothing_else(scene: Scene) -> None:
    hooks = Kind("admissionregistration.k8s.io/v1", "validatingwebhookconfigurations")
    name = f"{scene.namespace}.example.com"
    hook = {
        "name": name,
        "clientConfig": {"service": {"name": "none", "namespace": scene.namespace}},
        "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["services"]}],
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": scene.namespace}},
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
        "failurePolicy": "Fail",
        "timeoutSeconds": 1,
    }
    await scene.api.request("POST", hooks.path(), body={"metadata": {"name": name}, "webhooks": [hook]})
    try:
        await scene.operator()
        await scene.apply(replicas=2)
        seen = await scene.until_condition("Degraded", "ServiceRefused", "True")
        assert "failed calling webhook" in seen["message"]
        await scene.until(lambda: _are(scene, [1, 1]), "the replicas are made")
    finally:
        await scene.api.request("DELETE", hooks.path(name=name))
    await scene.until_ready()


@pytest.mark.exhaustive
async def test_a_revision_that_a_person_deletes_is_stored_anew(scene: Scene) -> None:
    operator = await scene.operator()
    await scene.apply(replicas=1)
    await scene.until_ready()
    await scene.kubectl("delete", "controllerrevision", "m-1")
    await scene.scale(2)
    await scene.until_ready(replicas=2)
    assert "Traceback" not in operator.output()
