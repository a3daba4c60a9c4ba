"""A real API server takes what `dp-vllm export` prints."""

import pytest

from dp_vllm import names
from dp_vllm.kubernetes_api import KubernetesApi
from dp_vllm.local import command_line, export_command
from dp_vllm.local.export import export
from dp_vllm.local.flags import split
from dp_vllm_operator.cluster import YAML

pytestmark = pytest.mark.usefixtures("dpmodels")

LINES = (
    "Qwen/Qwen3-8B -dp 4 -tp 2 --max-model-len 8192 --api-key k --port 9000",
    "/models/llama -dp 2 -pp 2 --served-model-name llama other --hf-overrides {} --policy session --prefix-weight 3",
    "demo/model --engine sim --no-enable-prefix-caching --seed -1",
)


@pytest.mark.parametrize("line", LINES)
async def test_the_object_of_a_command_line_is_taken(api: KubernetesApi, namespace: str, line: str) -> None:
    items = split.FLAGS.read(line.split())
    made = export(command_line.divided(items, {}), items, exists=lambda path: False)
    path = f"/apis/{names.API_GROUP}/{names.API_VERSION}/namespaces/{namespace}/{names.PLURAL}"

    body = export_command.text(made)
    query = {"dryRun": "All", "fieldValidation": "Strict"}
    taken = await api.request("POST", path, query=query, body=body, content_type=YAML)

    assert taken["spec"]["engine"].get("args") == made.body["spec"].get("engine", {}).get("args")
