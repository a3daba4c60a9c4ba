"""What stands beside a model's replicas, and when it has to be written."""

import copy
import dataclasses
from typing import Any

import pytest
import random_specs
from hypothesis import given, settings
from kubelet import container as kubelet_container
from models import SETTINGS, Json, model, variables

from dp_vllm import names
from dp_vllm_operator.model import Model
from dp_vllm_operator.render.children import (
    APPLIED_ANNOTATION,
    Child,
    as_applied,
    children,
    differs,
    must_be_made_anew,
    owned_by,
)

CLAIM: Json = {"claim": {"size": "1Gi"}}


def child(kind: str, of: Model | None = None, *, name: str | None = None) -> Child:
    """The one of a kind, or of that name."""
    (found,) = (one for one in children(of or model(), SETTINGS) if one.kind == kind and name in (None, one.name))
    return found


def live(one: Child, **metadata: Any) -> Json:
    """As the API server would have it."""
    body = copy.deepcopy(one.creation)
    body["metadata"] |= {"uid": f"uid of {one.name}", "resourceVersion": "7", **metadata}
    return body


def having(**fields: Any) -> set[tuple[str, str]]:
    return {(one.kind, one.name) for one in children(model(**fields), SETTINGS)}


def test_a_model_has_a_gateway_its_programs_and_its_protection() -> None:
    assert having() == {
        ("ConfigMap", "m-engine-life"),
        ("PodDisruptionBudget", "m-replicas"),
        ("NetworkPolicy", "m-replicas"),
        ("ServiceAccount", "m-gateway"),
        ("RoleBinding", "m-gateway"),
        ("PodDisruptionBudget", "m-gateway"),
        ("Deployment", "m-gateway"),
        ("Service", "m"),
    }


@pytest.mark.parametrize(
    ("fields", "kinds"),
    [
        ({"cache": CLAIM}, {"PersistentVolumeClaim", "Job"}),
        ({"cache": CLAIM, "model": "/cache/model"}, {"PersistentVolumeClaim"}),
        ({"cache": {"existingClaim": "x"}}, {"Job"}),
        ({"cache": {"existingClaim": "x"}, "model": "/cache/model"}, set()),
        ({"cache": {"existingClaim": "x"}, "engine": {"env": [{"name": "VLLM_USE_MODELSCOPE", "value": "1"}]}}, set()),
        ({"cache": {"existingClaim": "x"}, "engine": {"args": ["--download-dir", "/d"]}}, set()),
        ({"cache": {"hostPath": "/data"}}, set()),
        ({"cache": CLAIM, "template": {"spec": {"containers": {}}}}, {"PersistentVolumeClaim"}),
    ],
)
def test_a_cache_brings_a_claim_and_a_download(fields: Json, kinds: set[str]) -> None:
    assert {kind for kind, _ in having(**fields) - having()} == kinds


@given(random_specs.specs())
@settings(max_examples=20)
def test_children_of_any_spec_have_names_labels_and_an_owner(fields: Json) -> None:
    one = model(**fields)
    for each in children(one, SETTINGS):
        metadata = each.body["metadata"]
        assert (each.body["apiVersion"], each.body["kind"]) == (each.api_version, each.kind)
        assert (metadata["name"], metadata["namespace"]) == (each.name, "ns")
        assert metadata["labels"] == one.labels(each.component)
        assert metadata.get("ownerReferences", [one.owner]) == [one.owner]
        assert not differs(live(each), each)
        assert owned_by(live(each), one)


def test_the_programs_are_there_as_they_are() -> None:
    data = child("ConfigMap").body["data"]

    assert data.keys() == {"engine_life.py", "download.py"}
    for name, source in data.items():
        compile(source, name, "exec")


# Differences


def test_nothing_is_written_without_a_difference() -> None:
    assert [one.name for one in children(model(), SETTINGS) if differs(live(one), one)] == []


def test_what_somebody_changed_differs() -> None:
    service = child("Service")
    changed = live(service)
    changed["spec"]["selector"] = {"app": "other"}

    assert differs(changed, service)


def test_what_is_asked_for_no_more_differs() -> None:
    with_keys, without = (child("Deployment", one) for one in (model(apiKeySecretRef={"name": "k"}), model()))

    assert without.body["metadata"]["annotations"] != with_keys.body["metadata"]["annotations"]
    assert differs(live(with_keys), without)


def test_the_hash_depends_on_what_is_asked_for_alone() -> None:
    hashes = [
        {one.name: one.body["metadata"]["annotations"][APPLIED_ANNOTATION] for one in children(each, SETTINGS)}
        for each in (model(), model(), model(replicas=7))
    ]

    assert hashes[0] == hashes[1] == hashes[2]


# What is said at creation only


def test_the_number_of_gateways_is_left_alone_if_the_spec_says_none() -> None:
    deployment = child("Deployment")
    scaled = live(deployment)
    scaled["spec"]["replicas"] = 9

    assert deployment.creation["spec"]["replicas"] == 2
    assert "replicas" not in deployment.body["spec"]
    assert not differs(scaled, deployment)
    assert deployment.application(scaled)["spec"]["replicas"] == 9


def test_the_number_of_gateways_is_the_specs_if_it_says_one() -> None:
    deployment = child("Deployment", model(gateway={"replicas": 3}))
    scaled = live(deployment)
    scaled["spec"]["replicas"] = 9

    assert differs(scaled, deployment)
    assert deployment.application(scaled)["spec"]["replicas"] == 3


def test_a_download_is_never_changed() -> None:
    before = live(child("Job", model(cache=CLAIM)))
    after = child("Job", model(cache=CLAIM, engine={"image": "x", "env": [{"name": "HTTPS_PROXY", "value": "p"}]}))

    assert not differs(before, after)
    assert after.application(before)["spec"] == before["spec"]


def test_an_apply_is_for_one_object_only() -> None:
    service = child("Service")

    assert service.application(live(service))["metadata"]["uid"] == "uid of m"


def test_a_claim_grows_and_never_shrinks() -> None:
    small, large = (child("PersistentVolumeClaim", model(cache={"claim": {"size": s}})) for s in ("1Gi", "2Gi"))
    grown = live(small)
    grown["spec"]["resources"]["requests"]["storage"] = "4Gi"

    def size(body: Json) -> Any:
        return body["spec"]["resources"]["requests"]["storage"]

    assert differs(live(small), large)
    assert size(large.application(live(small))) == "2Gi"
    assert not differs(grown, small)
    assert size(large.application(grown)) == "4Gi"


@pytest.mark.parametrize(("before", "after", "anew"), [("a", "b", True), ("a", "a", False)])
def test_what_a_binding_binds_to_cannot_be_changed(before: str, after: str, anew: bool) -> None:
    def binding(role: str) -> Child:
        (one,) = (
            one
            for one in children(model(), dataclasses.replace(SETTINGS, gateway_cluster_role=role))
            if one.kind == "RoleBinding"
        )
        return one

    assert must_be_made_anew(live(binding(before)), binding(after)) is anew
    assert not must_be_made_anew(live(child("Service")), child("Service"))


# Owners


def test_what_another_model_controls_is_not_ours() -> None:
    assert not owned_by(live(child("Service")), model(uid="another"))


def test_what_nobody_controls_is_not_ours() -> None:
    one = live(child("Service"))
    del one["metadata"]["ownerReferences"]

    assert not owned_by(one, model())


@pytest.mark.parametrize("retain", [True, False])
def test_a_claim_outlives_its_model_if_it_is_retained(retain: bool) -> None:
    claim = live(child("PersistentVolumeClaim", model(cache={"claim": {"size": "1Gi", "retain": retain}})))

    assert ("ownerReferences" not in claim["metadata"]) is retain
    assert owned_by(claim, model())
    assert owned_by(claim, model(uid="another")) is retain
    assert not owned_by(claim, model(name="n", uid="another"))


def test_a_claim_of_somebody_else_is_not_ours() -> None:
    claim = live(child("PersistentVolumeClaim", model(cache=CLAIM)), labels={"app": "x"})

    assert not owned_by(claim, model())


# Field managers


def entry(manager: str, operation: str, fields: Json, **more: str) -> Json:
    return {"manager": manager, "operation": operation, "apiVersion": "v1", "fieldsType": "FieldsV1",
            "fieldsV1": fields, **more}  # fmt: skip


def test_what_we_created_counts_as_applied() -> None:
    hpa = entry("hpa", "Update", {"f:spec": {"f:replicas": {}}})
    status = entry(names.OPERATOR, "Update", {"f:status": {}}, subresource="status")
    created = entry(names.OPERATOR, "Update", {"f:spec": {"f:a": {}}})
    applied = entry(names.OPERATOR, "Apply", {"f:spec": {"f:b": {}}})
    one = live(child("Service"), managedFields=[hpa, created, status, applied])

    patch = as_applied(one)

    assert patch == {
        "metadata": {
            "uid": "uid of m",
            "resourceVersion": "7",
            "managedFields": [hpa, status, applied | {"fieldsV1": {"f:spec": {"f:a": {}, "f:b": {}}}}],
        }
    }
    assert as_applied(one | {"metadata": one["metadata"] | patch["metadata"]}) is None


# Protection


def test_budgets_let_one_of_each_kind_go_and_never_hold_the_sick() -> None:
    for name, component in (("m-replicas", names.REPLICA), ("m-gateway", names.GATEWAY)):
        assert child("PodDisruptionBudget", name=name).body["spec"] == {
            "maxUnavailable": 1,
            "selector": {"matchLabels": {names.MODEL_LABEL: "m", names.COMPONENT_LABEL: component}},
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        }


def test_engines_hear_from_gateways_and_the_operator_only() -> None:
    (policy,) = (
        one
        for one in children(model(), dataclasses.replace(SETTINGS, own_namespace="kube-system"))
        if one.kind == "NetworkPolicy"
    )

    assert policy.body["spec"]["policyTypes"] == ["Ingress"]
    assert policy.body["spec"]["podSelector"]["matchLabels"][names.COMPONENT_LABEL] == names.REPLICA
    assert policy.body["spec"]["ingress"] == [
        {
            "from": [
                {"podSelector": {"matchLabels": {names.MODEL_LABEL: "m", names.COMPONENT_LABEL: "gateway"}}},
                {
                    "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}},
                    "podSelector": {"matchLabels": {names.NAME_LABEL: "dp-vllm", names.COMPONENT_LABEL: "operator"}},
                },
            ],
            "ports": [{"port": 8000, "protocol": "TCP"}],
        }
    ]
    assert len(child("NetworkPolicy").body["spec"]["ingress"][0]["from"]) == 1


# The download


def download(**fields: Any) -> Json:
    return child("Job", model(**{"cache": CLAIM, **fields})).creation


def test_a_download_runs_where_and_as_replicas_do_without_accelerators() -> None:
    fields = {"nodeSelector": {"a": "b"}, "imagePullSecrets": [{"name": "r"}], "runtimeClassName": "nvidia",
              "containers": [{"name": "other", "image": "x"}], "initContainers": [{"name": "i"}]}  # fmt: skip
    pod = download(template={"spec": fields}, tensorParallelSize=8)["spec"]["template"]["spec"]
    (container,) = pod["containers"]

    assert (pod["nodeSelector"], pod["imagePullSecrets"]) == ({"a": "b"}, [{"name": "r"}])
    assert pod["securityContext"]["runAsUser"] == 2000
    assert not {"runtimeClassName", "initContainers", "shareProcessNamespace"} & pod.keys()
    assert not {"ports", "startupProbe", "readinessProbe", "livenessProbe", "lifecycle", "args"} & container.keys()
    assert "limits" not in container["resources"]
    assert container["image"] == SETTINGS.engine_image


def test_a_download_has_what_the_hub_asks_for() -> None:
    told = variables(
        download(
            hfTokenSecretRef={"name": "hub"},
            engine={"env": [{"name": "HTTPS_PROXY", "value": "p"}, {"name": "HF_HUB_OFFLINE", "value": "1"}]},
        )["spec"]["template"]["spec"]["containers"][0]
    )

    assert told["HF_TOKEN"] == {"secretKeyRef": {"name": "hub", "key": "token"}}
    assert told["HTTPS_PROXY"] == "p"
    assert told["HF_HOME"] == "/cache/huggingface"
    assert "HF_HUB_OFFLINE" not in told


def test_a_download_ends_and_goes_on_trying_until_then() -> None:
    job = download()["spec"]

    assert job["template"]["spec"]["restartPolicy"] == "OnFailure"
    assert job["backoffLimit"] > 1_000_000
    assert "ttlSecondsAfterFinished" not in job


def test_a_download_mounts_the_cache_and_its_program() -> None:
    pod = download()["spec"]["template"]["spec"]
    (container,) = pod["containers"]

    assert {"name": "cache", "persistentVolumeClaim": {"claimName": "m-cache"}} in pod["volumes"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    assert container["command"] == ["python3", "-I", "/etc/dp-vllm/download.py", "org/model"]


def test_a_download_is_of_all_that_the_engine_will_ask_for() -> None:
    args = ["--revision", "v1", "--tokenizer", "org/t", "--hf-config-path", "org/c", "--tokenizer-revision", "v2"]
    (container,) = download(engine={"args": args})["spec"]["template"]["spec"]["containers"]

    assert container["command"][3:] == [
        *("org/model", "--revision", "v1", "--also", "org/t@v2", "--also", "org/c@v1"),
    ]


def test_a_download_s_words_never_have_the_token() -> None:
    (container,) = download(
        hfTokenSecretRef={"name": "hub"}, engine={"args": ["--revision", "$(HF_TOKEN)", "--tokenizer", "org/other"]}
    )["spec"]["template"]["spec"]["containers"]

    words = kubelet_container.words(container, {"hub": {"token": "hf_secret"}})

    assert words[3:] == ["org/model", "--revision", "$(HF_TOKEN)", "--also", "org/other"]


def test_another_download_has_another_name() -> None:
    others = [download(**fields)["metadata"]["name"] for fields in (
        {}, {"replicas": 3}, {"engine": {"image": "x"}}, {"model": "org/other"}, {"cache": {"existingClaim": "c"}},
    )]  # fmt: skip

    assert others[0] == others[1] == others[2]
    assert len(set(others)) == 3
    assert all(name.startswith("m-download-") and len(name) == len("m-download-") + 8 for name in others)
