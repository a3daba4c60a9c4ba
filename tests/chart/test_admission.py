"""What the chart makes is admitted by a real API server, in a namespace that is `restricted`."""

from pathlib import Path
from typing import Final

import pytest
import pytest_asyncio
from chart.helm import CI_FILES, Helm, Object, path_of, pod_of

from dp_vllm.kubernetes_api import APPLY, MERGE, ApiError, KubernetesApi

ELSEWHERE: Final = "monitoring.coreos.com/v1"
"""Kinds that this API server does not know."""


@pytest_asyncio.fixture
async def restricted(api: KubernetesApi, namespace: str) -> str:
    """A namespace that admits no pod with more rights than Kubernetes advises."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    await api.request(
        "PATCH", f"/api/v1/namespaces/{namespace}", body={"metadata": {"labels": labels}}, content_type=MERGE
    )
    return namespace


async def admitted(api: KubernetesApi, body: Object, namespace: str) -> None:
    """Raises what the API server would say. `namespace` stands for all that values name, which are not there."""
    if "namespace" in body["metadata"]:
        body["metadata"]["namespace"] = namespace
    query = {"fieldManager": "test", "force": "true", "fieldValidation": "Strict", "dryRun": "All"}
    await api.request("PATCH", path_of(body), query=query, body=body, content_type=APPLY)


def pods(objects: list[Object]) -> list[Object]:
    """What a Deployment's controller would make; a Deployment with pods that nobody admits is admitted itself."""
    template = pod_of(objects)
    spec = {**template["spec"], "serviceAccountName": "default"}
    metadata = {**template["metadata"], "name": "operator", "namespace": ""}
    return [{"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}]


@pytest.mark.parametrize("file", CI_FILES, ids=lambda file: file.stem)
@pytest.mark.usefixtures("dpmodels")
async def test_what_it_makes_is_admitted(helm: Helm, api: KubernetesApi, restricted: str, file: Path) -> None:
    objects = helm.objects(f"--values={file}", namespace=restricted)
    known = [body for body in objects if body["apiVersion"] != ELSEWHERE]
    assert len(known) >= 6
    for body in known + pods(objects):
        await admitted(api, body, restricted)


async def test_a_pod_with_more_rights_would_not_be(helm: Helm, api: KubernetesApi, restricted: str) -> None:
    (pod,) = pods(helm.objects())
    del pod["spec"]["containers"][0]["securityContext"]["capabilities"]
    with pytest.raises(ApiError, match="violates PodSecurity"):
        await admitted(api, pod, restricted)
