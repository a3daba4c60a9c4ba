"""What the gateway's Deployment and Service say."""

import dataclasses
import json
from typing import Any

import click
import pytest
from kubelet import container as kubelet_container
from models import SETTINGS, Json, model, variables

from dp_vllm import names
from dp_vllm.engine.flags import Flags, vllm_flags
from dp_vllm_gateway.__main__ import main
from dp_vllm_operator.__main__ import listen_address
from dp_vllm_operator.render.gateway import deployment, role_binding, service
from dp_vllm_operator.render.pod import engine_of, pod_template
from dp_vllm_operator.revision import user_part


def pod(**fields: Any) -> Json:
    of: Json = deployment(model(**fields), SETTINGS)["template"]["spec"]
    return of


def container(**fields: Any) -> Json:
    (one,) = pod(**fields)["containers"]
    return dict(one)


def told(**fields: Any) -> dict[str, Any]:
    """What the gateway makes of its words."""
    command: click.Command = main
    return command.make_context("gateway", list(container(**fields)["args"])).params


def test_the_gateway_understands_its_words() -> None:
    further = {"firstByteSeconds": 3600, "allowedOrigins": ["https://a.example", "null"]}
    words = told(rollout={"drainTimeoutSeconds": 44}, gateway={"policy": "round-robin", **further})

    assert words["kubernetes_model"] == "m"
    assert (words["port"], words["metrics_port"]) == (names.DEFAULT_PORT, names.METRICS_PORT)
    assert (words["peer_port"], words["gateway_workers"]) == (names.PEER_PORT, 1)
    assert words["shutdown_timeout"] == 44
    assert words["policy"] == "round-robin"
    assert (words["first_byte_seconds"], words["allowed_origins"]) == (3600, ("https://a.example", "null"))
    assert (told()["first_byte_seconds"], told()["allowed_origins"]) == (0, None), "older gateways have no such flag"
    assert variables(container())["POD_IP"] == {"fieldRef": {"fieldPath": "status.podIP"}}
    assert variables(container())["POD_NAMESPACE"] == {"fieldRef": {"fieldPath": "metadata.namespace"}}


def test_origins_are_no_references() -> None:
    origins = ["https://$(POD_IP)", "https://$$(POD_IP)"]
    started = kubelet_container.words(container(gateway={"allowedOrigins": origins}), {})

    assert json.loads(started[started.index("--allowed-origins") + 1]) == origins


@pytest.mark.parametrize(("pod_ip", "engines", "gateways"), [
    ("", "0.0.0.0", None), ("10.0.0.1", "0.0.0.0", None), ("fd00::1", "::", "::"),
])  # fmt: skip
def test_all_listen_on_addresses_of_the_cluster_s_family(pod_ip: str, engines: str, gateways: str | None) -> None:
    settings = dataclasses.replace(SETTINGS, listen_address=listen_address(pod_ip))
    engine = engine_of(pod_template("m", user_part(model(), settings)))
    words = deployment(model(), settings)["template"]["spec"]["containers"][0]["args"]

    assert {item.flag.name: item.values for item in Flags(vllm_flags()).read(engine["args"][1:]) if item.flag}[
        "--host"
    ] == (engines,)
    assert main.make_context("gateway", list(words)).params["host"] == gateways


def test_explain_asks_it_where_it_answers_and_it_needs_no_volume_for_that() -> None:
    assert str(told()["admin_socket"]) == variables(container())[names.ADMIN_SOCKET_VARIABLE]
    assert "volumes" not in pod()


def test_keys_are_a_file_that_may_be_missing() -> None:
    fields: Json = {"apiKeySecretRef": {"name": "keys", "key": "k"}}
    (volume,) = pod(**fields)["volumes"]
    (mount,) = container(**fields)["volumeMounts"]

    assert volume["secret"] == {"secretName": "keys", "items": [{"key": "k", "path": "keys"}], "optional": True}
    assert str(told(**fields)["api_key_file"]) == f"{mount['mountPath']}/keys"
    assert told()["api_key_file"] is told()["admin_api_key_file"] is None


def test_administrators_keys_may_be_in_another_secret() -> None:
    fields: Json = {"apiKeySecretRef": {"name": "keys"}, "adminApiKeySecretRef": {"name": "ops"}}
    users, admins = pod(**fields)["volumes"]
    places = {mount["name"]: f"{mount['mountPath']}/keys" for mount in container(**fields)["volumeMounts"]}

    assert (users["secret"]["secretName"], admins["secret"]["secretName"]) == ("keys", "ops")
    assert admins["secret"]["items"] == [{"key": "admin-api-keys", "path": "keys"}] and admins["secret"]["optional"]
    assert str(told(**fields)["api_key_file"]) == places[users["name"]]
    assert str(told(**fields)["admin_api_key_file"]) == places[admins["name"]]


def test_a_new_gateway_comes_before_an_old_one_goes() -> None:
    strategy = deployment(model(), SETTINGS)["strategy"]

    assert strategy == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}


def test_it_leaves_a_lost_node_as_soon_as_replicas_do() -> None:
    assert {one["key"]: one["tolerationSeconds"] for one in pod()["tolerations"]} == {
        "node.kubernetes.io/not-ready": 60,
        "node.kubernetes.io/unreachable": 60,
    }


def test_streams_may_end_before_a_gateway_does() -> None:
    one = pod(rollout={"drainTimeoutSeconds": 44})
    (gateway,) = one["containers"]

    assert gateway["lifecycle"]["preStop"] == {"exec": {"command": ["sleep", "10"]}}
    assert one["terminationGracePeriodSeconds"] > 10 + 44


def test_a_gateway_without_replicas_lives_and_one_that_knows_them_is_ready() -> None:
    gateway = container()

    assert gateway["readinessProbe"]["httpGet"]["path"] == "/ready"
    assert gateway["livenessProbe"]["httpGet"]["path"] != "/health"
    ports = {port["name"]: port["containerPort"] for port in gateway["ports"]}
    assert ports == {"http": 8000, "metrics": 9000, "peers": 9001}
    assert {gateway[probe]["httpGet"]["port"] for probe in ("readinessProbe", "livenessProbe")} == {"metrics"}


def test_a_gateway_can_do_little_harm() -> None:
    one = pod()

    assert one["containers"][0]["securityContext"]["readOnlyRootFilesystem"] is True
    assert one["securityContext"]["runAsNonRoot"] is True
    assert one["automountServiceAccountToken"] is True  # it asks the API server for pods
    assert one["enableServiceLinks"] is False


def test_gateways_are_spread_where_that_is_possible() -> None:
    for one in pod()["topologySpreadConstraints"]:
        assert one["whenUnsatisfiable"] == "ScheduleAnyway"
        assert one["labelSelector"]["matchLabels"].items() <= model().labels(names.GATEWAY).items()


@pytest.mark.parametrize(
    ("fields", "image"), [({}, SETTINGS.gateway_image), ({"gateway": {"image": "mine:1"}}, "mine:1")]
)
def test_the_image_is_the_releases_or_the_users(fields: Json, image: str) -> None:
    assert container(**fields)["image"] == image


def test_resources_are_the_users_or_small_requests() -> None:
    resources = {"limits": {"cpu": 2}}

    assert container(gateway={"resources": resources})["resources"] == resources
    assert container()["resources"].keys() == {"requests"}


def test_the_selectors_find_the_gateways_pods() -> None:
    spec = deployment(model(), SETTINGS)
    labels = spec["template"]["metadata"]["labels"]

    assert spec["selector"]["matchLabels"].items() <= labels.items()
    assert service(model())["selector"].items() <= labels.items()


@pytest.mark.parametrize(
    ("fields", "kind", "port"),
    [({}, "ClusterIP", 80), ({"gateway": {"service": {"type": "LoadBalancer", "port": 8080}}}, "LoadBalancer", 8080)],
)
def test_the_service_is_as_the_spec_says(fields: Json, kind: str, port: int) -> None:
    made = service(model(**fields))

    assert made["type"] == kind
    assert [(one["port"], one["targetPort"]) for one in made["ports"]] == [(port, "http")]


def test_the_gateway_may_do_what_the_charts_role_says() -> None:
    binding = role_binding(model(), SETTINGS)

    assert binding["roleRef"]["name"] == SETTINGS.gateway_cluster_role
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "m-gateway", "namespace": "ns"}]
    assert pod()["serviceAccountName"] == "m-gateway"
