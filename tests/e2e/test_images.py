"""The project's images in pods of real nodes, on any cluster."""

import openai
import pytest
from cluster.fixtures import Kubectl
from cluster.given import AnyCluster
from cluster.reach import reached
from docker.images import tag
from e2e.pods import MODEL, sim_pod

pytestmark = pytest.mark.e2e


def test_a_simulated_engine_answers_through_a_service(cluster: AnyCluster, namespace: str, kubectl: Kubectl) -> None:
    kubectl("create", "--filename=-", stdin=sim_pod("sim"))
    kubectl("expose", "pod/sim", "--port=80", "--target-port=8000")
    kubectl("wait", "pod/sim", "--for=condition=Ready", "--timeout=60s")
    with (
        reached(cluster, namespace, "service/sim", 80, image=tag("sim")) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", timeout=30) as client,
    ):
        answer = client.completions.create(model=MODEL, prompt="Hello", max_tokens=8)
        assert answer.choices[0].text


@pytest.mark.parametrize(("target", "word"), [("operator", "--version"), ("gateway", "--help")])
def test_an_image_is_there_under_the_name_that_pods_say(kubectl: Kubectl, target: str, word: str) -> None:
    kubectl("run", target, f"--image={tag(target)}", "--image-pull-policy=Never", "--restart=Never", "--", word)
    kubectl("wait", f"pod/{target}", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=60s")
    assert "dp-vllm" in kubectl("logs", target)
