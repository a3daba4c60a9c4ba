"""Random DPModels on a real API server: what the types allow is accepted, kept as it is, and read again."""

import asyncio
from pathlib import Path
from typing import Any

from cluster.given import AnyCluster
from dpmodels import dpmodel
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_specs import specs

from dp_vllm import names, spec

Spec = dict[str, Any]


async def kept(kubeconfig: Path, wanted: list[Spec]) -> list[Spec]:
    """The specs as the API server would keep them."""
    from cluster.api import connected  # takes a while to import

    path = f"/apis/{names.API_GROUP}/{names.API_VERSION}/namespaces/default/{names.PLURAL}"
    query = {"dryRun": "All", "fieldValidation": "Strict"}
    async with connected(kubeconfig) as api:
        requests = (api.request("POST", path, body=dpmodel("m", **one), query=query) for one in wanted)
        return [made["spec"] for made in await asyncio.gather(*requests)]


@settings(max_examples=6, suppress_health_check=list(HealthCheck))
@given(wanted=st.lists(specs(), min_size=10, max_size=10))
def test_what_the_types_allow_is_accepted_and_read_again(wanted: list[Spec], dpmodels: AnyCluster) -> None:
    for one, made in zip(wanted, asyncio.run(kept(dpmodels.kubeconfig, wanted)), strict=True):
        assert spec.read(made) == spec.read(one)
