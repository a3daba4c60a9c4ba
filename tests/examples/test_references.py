"""What an example names is there: the Service, the model to scale, the queue, the series, the Secret."""

import re
import time
from typing import Any

import pytest
from models import SETTINGS
from msgspec import UNSET

from dp_vllm.engine.command import known_flags
from dp_vllm_gateway.body import Bodies
from dp_vllm_gateway.config import Limits
from dp_vllm_gateway.discovery.contact import Contact
from dp_vllm_gateway.exposition import Exposition
from dp_vllm_gateway.metrics import Metrics
from dp_vllm_gateway.pool import Pool
from dp_vllm_gateway.queue import Queue
from dp_vllm_operator.model import Model
from dp_vllm_operator.render.children import children
from dp_vllm_operator.render.pod import engine_of, pod, pod_template
from dp_vllm_operator.revision import user_part
from examples.documents import MODELS, Document, beside, head, of_kind


def child(of: Model, kind: str) -> dict[str, Any]:
    (body,) = (one.creation for one in children(of, SETTINGS) if one.kind == kind)
    return body


def replica(of: Model) -> dict[str, Any]:
    return pod(pod_template(of.name, user_part(of, SETTINGS)), of, 1, 0)


def backends(route: Document) -> list[tuple[str, int | str]]:
    """The Services that a way from outside leads to, and their ports."""
    spec = route.body["spec"]
    match route.body["kind"]:
        case "HTTPRoute":
            return [(to["name"], to["port"]) for rule in spec["rules"] for to in rule["backendRefs"]]
        case "Ingress":
            services = [path["backend"]["service"] for rule in spec["rules"] for path in rule["http"]["paths"]]
            return [(service["name"], service["port"]["number"]) for service in services]
        case _:
            return [(spec["to"]["name"], spec["port"]["targetPort"])]


@pytest.mark.parametrize("kind", ["HTTPRoute", "Ingress", "Route"])
def test_ways_from_outside_lead_to_the_service_of_a_model_that_asks_for_keys(kind: str) -> None:
    (route,) = of_kind(kind)

    ((name, port),) = backends(route)
    of = beside(route)[name].model()

    (offered,) = child(of, "Service")["spec"]["ports"]
    assert port in (offered["port"], offered["targetPort"])
    assert of.spec.api_key_secret_ref is not UNSET


@pytest.mark.parametrize("kind", ["HorizontalPodAutoscaler", "ScaledObject"])
def test_autoscalers_scale_a_model_that_leaves_the_number_to_them(kind: str) -> None:
    (scaler,) = of_kind(kind)
    target = scaler.body["spec"]["scaleTargetRef"]

    scaled = beside(scaler)[target["name"]]

    assert (target["apiVersion"], target["kind"]) == scaled.kind
    assert "replicas" not in scaled.body["spec"]


def test_autoscalers_ask_for_a_series_that_gateways_have() -> None:
    (hpa,), (keda,) = of_kind("HorizontalPodAutoscaler"), of_kind("ScaledObject")
    (metric,), (trigger,) = hpa.body["spec"]["metrics"], keda.body["spec"]["triggers"]
    pool = Pool(connect_seconds=1, clock=time.monotonic)

    shown = Exposition(Metrics(), pool, Bodies(Limits()), Contact(), _queue()).own(0.0).decode()

    series = metric["pods"]["metric"]["name"]
    assert f"# TYPE {series} gauge" in shown
    assert f"seriesQuery: '{series}{{" in head(hpa.file)
    assert trigger["metadata"]["query"].startswith(f"sum({series}{{")


def _queue() -> Queue:
    pool = Pool(connect_seconds=1, clock=time.monotonic)
    return Queue(
        Limits(),
        to_go=lambda line: [],
        anyway=lambda facts: None,
        lease=lambda choice, facts: pool.lease(choice.picked, facts),
        next_room_at=lambda: None,
        retry_after_seconds=lambda tokens: 1,
    )


def test_the_query_means_the_pods_of_the_models_gateways() -> None:
    (keda,) = of_kind("ScaledObject")
    (trigger,) = keda.body["spec"]["triggers"]
    (of,) = beside(keda).values()

    pattern = re.search(r'pod=~"([^"]+)"', trigger["metadata"]["query"])

    assert pattern
    assert re.fullmatch(pattern[1], child(of.model(), "Deployment")["metadata"]["name"] + "-6c5d8f7b9-x2x4z")
    assert not re.fullmatch(pattern[1], replica(of.model())["metadata"]["name"])


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_prometheus_reads_the_gateways_of_every_model(model: Document) -> None:
    (monitor,) = of_kind("PodMonitor")
    template = child(model.model(), "Deployment")["spec"]["template"]

    (endpoint,) = monitor.body["spec"]["podMetricsEndpoints"]

    assert monitor.body["spec"]["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    assert endpoint["port"] in [port["name"] for port in template["spec"]["containers"][0]["ports"]]


def test_replicas_are_in_a_queue_that_covers_what_they_ask_for() -> None:
    (flavour,), (cluster_queue,), (queue,) = map(of_kind, ("ResourceFlavor", "ClusterQueue", "LocalQueue"))
    ((of),) = beside(queue).values()
    (group,) = cluster_queue.body["spec"]["resourceGroups"]
    made = replica(of.model())

    assert made["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == queue.name
    assert queue.body["spec"]["clusterQueue"] == cluster_queue.name
    assert [one["name"] for one in group["flavors"]] == [flavour.name]
    assert engine_of(made)["resources"]["requests"].keys() == set(group["coveredResources"])


def test_the_queue_has_room_for_the_one_more_of_a_rollout() -> None:
    (cluster_queue,) = of_kind("ClusterQueue")
    (of,) = beside(cluster_queue).values()
    (resource,) = cluster_queue.body["spec"]["resourceGroups"][0]["flavors"][0]["resources"]
    spec = of.model().spec

    assert resource["nominalQuota"] >= (spec.replicas + 1) * spec.accelerators


@pytest.mark.parametrize(
    ("file", "ref"), [("gated.yaml", "hf_token_secret_ref"), ("api-keys.yaml", "api_key_secret_ref")]
)
def test_the_command_that_makes_a_secret_makes_the_key_that_is_read(file: str, ref: str) -> None:
    (of,) = (one for one in MODELS if one.file.name == file)

    secret = getattr(of.model().spec, ref)

    made = re.search(rf"kubectl create secret generic {secret.name} --from-\w+=([-\w]+)=", head(of.file))
    assert made and made[1] == secret.key


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_flags_are_ones_that_vllm_has(model: Document) -> None:
    words = model.model().spec.engine.args

    assert [item for item in known_flags().read(words) if item.flag is None] == []
