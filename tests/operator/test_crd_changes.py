"""What of a DPModel may be changed later, on a real API server: not by one edit, nor by removing and setting again."""

import uuid
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from cluster.given import AnyCluster
from dpmodels import dpmodel

from dp_vllm import names

if TYPE_CHECKING:
    from dp_vllm.kubernetes_api import KubernetesApi

Spec = dict[str, Any]
PATH = f"/apis/{names.API_GROUP}/{names.API_VERSION}/namespaces/default/{names.PLURAL}"


class Made:
    """One DPModel that is made, and then changed."""

    def __init__(self, api: "KubernetesApi") -> None:
        self._api = api
        self.name = f"m{uuid.uuid4().hex[:8]}"

    async def make(self, spec: Spec) -> None:
        await self._api.request("POST", PATH, body=dpmodel(self.name, **spec))

    async def refusal(self, spec: Spec) -> str:
        """Why a merge patch of the spec is refused; empty if it is taken."""
        from dp_vllm.kubernetes_api import MERGE, ApiError  # takes a while to import

        path = f"{PATH}/{self.name}"
        try:
            await self._api.request("PATCH", path, body={"spec": spec}, content_type=MERGE)
        except ApiError as error:
            return error.message
        return ""


@pytest_asyncio.fixture
async def made(dpmodels: AnyCluster, api: "KubernetesApi") -> AsyncIterator[Made]:
    made = Made(api)
    yield made
    await api.request("DELETE", f"{PATH}/{made.name}")


CLAIM = {"claim": {"size": "10Gi", "storageClassName": "fast"}}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {"cache": CLAIM}),
        ({}, {"cache": {"hostPath": "/m"}}),
        ({"cache": CLAIM}, {"cache": None}),
        ({"cache": CLAIM}, {"cache": {"claim": None}}),
        ({"cache": CLAIM}, {"cache": {"claim": None, "existingClaim": "m-cache"}}),
        ({"cache": {"existingClaim": "c"}}, {"cache": {"existingClaim": None, "hostPath": "/m"}}),
        ({"cache": {"hostPath": "/m"}}, {"cache": {"hostPath": None}}),
    ],
)
async def test_the_kind_of_cache_stays(before: Spec, after: Spec, made: Made) -> None:
    await made.make(before)

    assert "the kind of cache cannot be changed; make a new DPModel" in await made.refusal(after)


async def test_what_a_claim_is_made_of_stays(made: Made) -> None:
    await made.make({"cache": CLAIM})

    for other in ("slow", "", None):
        refused = await made.refusal({"cache": {"claim": {"storageClassName": other}}})
        assert "storageClassName cannot be changed; make a new DPModel" in refused
    refused = await made.refusal({"cache": {"claim": {"accessMode": "ReadWriteOnce"}}})
    assert "accessMode cannot be changed; make a new DPModel" in refused


@pytest.mark.parametrize("later", ["fast", ""])
async def test_a_storage_class_cannot_be_named_later(later: str, made: Made) -> None:
    await made.make({"cache": {"claim": {"size": "1Gi"}}})

    refused = await made.refusal({"cache": {"claim": {"storageClassName": later}}})
    assert "storageClassName cannot be changed" in refused


async def test_a_claim_only_grows(made: Made) -> None:
    await made.make({"cache": CLAIM})

    assert "size can only grow" in await made.refusal({"cache": {"claim": {"size": "9999Mi"}}})
    for size in ("10240Mi", "11Gi", "1Ti"):
        assert await made.refusal({"cache": {"claim": {"size": size}}}) == ""
    assert "size can only grow" in await made.refusal({"cache": {"claim": {"size": "11Gi"}}})


async def test_all_else_may_be_changed(made: Made) -> None:
    await made.make({"cache": {"existingClaim": "c"}})

    for spec in (
        {"model": "org/other", "servedModelName": "m", "tensorParallelSize": 2, "pipelineParallelSize": 2},
        {"engine": {"image": "v:2", "args": ["-q", "fp8"], "accelerator": "none", "runAsUser": -1}},
        {"cache": {"existingClaim": "another"}},
        {"apiKeySecretRef": {"name": "keys"}, "gateway": {"service": {"type": "NodePort", "port": 8080}}},
        {"template": {"spec": {"nodeSelector": {"a": "b"}}}},
        {"apiKeySecretRef": None, "template": None, "engine": None},
    ):
        assert await made.refusal(spec) == ""
