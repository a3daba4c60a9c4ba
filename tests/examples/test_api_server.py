"""A real API server takes every example, and all that the operator makes of it."""

import asyncio
from collections.abc import Iterable
from typing import Any, Final

import pytest
import pytest_asyncio
from models import SETTINGS

from dp_vllm import names
from dp_vllm.kubernetes_api import JSON, MERGE, ApiError, KubernetesApi
from dp_vllm_operator.cluster import POD, REVISION, YAML, Kind
from dp_vllm_operator.model import Model
from dp_vllm_operator.render.children import children
from dp_vllm_operator.render.pod import pod, pod_template
from dp_vllm_operator.revision import New, controller_revision, user_part
from examples.documents import ALL, MODELS, Document

pytestmark = pytest.mark.usefixtures("dpmodels")

KINDS: Final = {
    (f"{names.API_GROUP}/{names.API_VERSION}", names.KIND): names.PLURAL,
    ("autoscaling/v2", "HorizontalPodAutoscaler"): "horizontalpodautoscalers",
    ("networking.k8s.io/v1", "Ingress"): "ingresses",
    ("networking.k8s.io/v1", "NetworkPolicy"): "networkpolicies",
    ("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicy"): "validatingadmissionpolicies",
    ("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicyBinding"): "validatingadmissionpolicybindings",
}
"""What the API server of the tests knows, by the name in its paths."""

OF_OTHERS: Final = {
    ("gateway.networking.k8s.io/v1", "HTTPRoute"),
    ("keda.sh/v1alpha1", "ScaledObject"),
    ("kueue.x-k8s.io/v1beta2", "ClusterQueue"),
    ("kueue.x-k8s.io/v1beta2", "LocalQueue"),
    ("kueue.x-k8s.io/v1beta2", "ResourceFlavor"),
    ("monitoring.coreos.com/v1", "PodMonitor"),
    ("route.openshift.io/v1", "Route"),
}
"""What needs definitions of other projects, which are not ours to keep; `test_references` looks at what these name."""

PRIVILEGED: Final = {"node-disk"}
"""Whose pods only a namespace without rules takes; their files say so."""

DRY_RUN: Final = {"dryRun": "All", "fieldValidation": "Strict"}


@pytest_asyncio.fixture
async def restricted(api: KubernetesApi, namespace: str) -> str:
    """A namespace that admits only pods without any privilege."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    await api.request("PATCH", f"/api/v1/namespaces/{namespace}", body={"metadata": {"labels": labels}},
                      content_type=MERGE)  # fmt: skip
    return namespace


async def post(api: KubernetesApi, path: str, body: object, content_type: str = JSON) -> str:
    """Why it is refused; empty if it is taken."""
    try:
        await api.request("POST", path, query=DRY_RUN, body=body, content_type=content_type)
    except ApiError as error:
        return str(error)
    return ""


async def refused(api: KubernetesApi, namespace: str, examples: Iterable[Document]) -> dict[str, str]:
    """Which objects of these DPModels are refused, and why."""
    bodies = {f"{one}: {kind.plural}": (kind.path(namespace), body)
              for one in examples for kind, body in objects(one.model(namespace))}  # fmt: skip
    said = await asyncio.gather(*(post(api, path, body) for path, body in bodies.values()))
    return {what: why for what, why in zip(bodies, said, strict=True) if why}


def objects(of: Model) -> list[tuple[Kind, dict[str, Any]]]:
    """Everything that a model becomes."""
    present = user_part(of, SETTINGS)
    new = New(1, present, pod_template(of.name, present))
    return [
        *((Kind(child.api_version, child.plural), child.creation) for child in children(of, SETTINGS)),
        (REVISION, controller_revision(of, new)),
        (POD, pod(new.template, of, 1, 0)),
    ]


def test_nothing_is_left_out_but_what_other_projects_define() -> None:
    assert {one.kind for one in ALL} - KINDS.keys() == OF_OTHERS


async def test_it_takes_every_example(api: KubernetesApi, namespace: str) -> None:
    known = [one for one in ALL if one.kind in KINDS]
    paths = [
        Kind(one.kind[0], KINDS[one.kind]).path("" if one.kind[0].startswith("admission") else namespace)
        for one in known
    ]

    said = await asyncio.gather(*(post(api, path, one.text, YAML) for path, one in zip(paths, known, strict=True)))

    assert {str(one): why for one, why in zip(known, said, strict=True) if why} == {}


async def test_it_takes_what_they_become_without_any_privilege(api: KubernetesApi, restricted: str) -> None:
    ordinary = [one for one in MODELS if one.name not in PRIVILEGED]

    assert await refused(api, restricted, ordinary) == {}


async def test_it_takes_the_others_where_there_are_no_rules(api: KubernetesApi, namespace: str) -> None:
    others = [one for one in MODELS if one.name in PRIVILEGED]

    assert len(others) == len(PRIVILEGED)
    assert await refused(api, namespace, others) == {}


async def test_those_are_refused_elsewhere(api: KubernetesApi, restricted: str) -> None:
    others = [one for one in MODELS if one.name in PRIVILEGED]

    said = await refused(api, restricted, others)

    assert said.keys() == {f"{one}: pods" for one in others}
    assert all("violates PodSecurity" in why for why in said.values())
