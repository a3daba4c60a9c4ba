"""What the chart makes fits together, and fits what the operator and its gateways are."""

import re
from collections.abc import Iterator
from typing import Final

import models
import pytest
import yaml
from chart.helm import CHART, Helm, Object, of_kind, pod_of, values

from dp_vllm import __version__, crd, names, spec
from dp_vllm_operator.__main__ import main
from dp_vllm_operator.render import gateway, protection
from dp_vllm_operator.settings import Settings

MONITORING: Final = f"--values={CHART / 'ci' / 'monitoring-values.yaml'}"
EVERYTHING: Final = f"--values={CHART / 'ci' / 'everything-values.yaml'}"

CLUSTER_SCOPED: Final = {"ClusterRole", "ClusterRoleBinding"}
ROLES: Final = {"Role", "RoleBinding"}
A_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")


@pytest.fixture(scope="module")
def everything(helm: Helm) -> list[Object]:
    return helm.objects(EVERYTHING)


@pytest.fixture(scope="module")
def whole_cluster(helm: Helm) -> list[Object]:
    return helm.objects(MONITORING)


def settings_of(objects: list[Object]) -> Settings:
    """What the operator makes of the arguments that the chart gives it."""
    words = pod_of(objects)["spec"]["containers"][0]["args"]
    given = main.make_context("operator", list(words)).params
    assert given.pop("log_format") in ("json", "text")
    return Settings(**given, identity="operator-0")


def test_the_kind_is_the_one_that_the_program_prints() -> None:
    assert (CHART / "crds.yaml").read_text() == crd.as_yaml(), "dp-vllm crd > charts/dp-vllm/crds.yaml"


def test_the_kind_is_kept_and_can_be_left_to_another_release(helm: Helm, whole_cluster: list[Object]) -> None:
    made = of_kind(whole_cluster, "CustomResourceDefinition")
    assert made["metadata"].pop("annotations") == {"helm.sh/resource-policy": "keep"}
    assert made == yaml.safe_load(crd.as_yaml())
    without = helm.objects(*values(crds__enabled="false"))
    assert [body["kind"] for body in without if "dpmodels" in body["metadata"]["name"]] == []
    assert [body for body in without if "aggregate" in str(body["metadata"])] == []


def test_versions_are_one() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == __version__


def test_the_operator_understands_its_arguments(everything: list[Object], whole_cluster: list[Object]) -> None:
    said, defaults = settings_of(everything), settings_of(whole_cluster)
    assert said.namespaces == ("team-a",)
    assert said.engine_image == "registry.example.org/vllm/vllm-openai:v0.32.0"
    assert said.gateway_image == "registry.example.org/dp-vllm/gateway:0.1.0"
    for settings, objects in ((said, everything), (defaults, whole_cluster)):
        assert settings.gateway_cluster_role == of_kind(objects, "ClusterRole", "-gateway")["metadata"]["name"]
    own = {option.name: option.default for option in main.params}
    assert (defaults.engine_image, defaults.gateway_image) == (own["engine_image"], own["gateway_image"])
    assert defaults.namespaces == ()
    role = of_kind(whole_cluster, "Role", "-lease")
    assert role["metadata"]["namespace"] == defaults.lease_namespace == own["lease_namespace"]
    container = pod_of(whole_cluster)["spec"]["containers"][0]
    assert {one["name"] for one in container["env"]} == {"POD_IP", "POD_NAME", "POD_NAMESPACE"}
    port = container["ports"][0]
    assert port == {"name": "metrics", "containerPort": defaults.health_port}


def test_gateways_get_the_role_that_the_operator_may_give(everything: list[Object]) -> None:
    settings = settings_of(everything)
    (rule,) = (rule for rule in of_kind(everything, "Role")["rules"] if "bind" in rule["verbs"])
    assert rule["resourceNames"] == [settings.gateway_cluster_role]


def test_the_table_of_rights_is_what_the_chart_gives(whole_cluster: list[Object]) -> None:
    text = (CHART.parents[1] / "docs" / "security.md").read_text()
    rows = re.findall(r"^\| (operator|gateway) \| (\S+) \| ([a-z, ]+) \|", text, re.MULTILINE)
    given = sorted(
        ("gateway" if body["metadata"]["name"].endswith("-gateway") else "operator", resource, ", ".join(rule["verbs"]))
        for body in whole_cluster
        if body["kind"] in ("ClusterRole", "Role") and "aggregate" not in str(body["metadata"])
        for rule in body["rules"]
        for resource in rule["resources"]
    )

    assert sorted(rows) == given


def test_networks_of_models_let_the_operator_in(everything: list[Object]) -> None:
    """Whatever labels are added: one of them in this file has the name of the chart's own."""
    labels = pod_of(everything)["metadata"]["labels"]
    assert labels["team"] == "platform"
    settings = Settings(engine_image="e", gateway_image="g", identity="o", own_namespace="ns")
    peer = protection.network_policy(models.model(), settings)["ingress"][0]["from"][1]["podSelector"]["matchLabels"]
    assert peer.items() <= labels.items()
    for kind in ("Deployment", "PodDisruptionBudget"):
        selector = of_kind(everything, kind)["spec"]["selector"]["matchLabels"]
        assert selector.items() <= labels.items()
        assert "team" not in of_kind(everything, kind)["metadata"]["labels"]


def test_prometheus_finds_operators_and_gateways(everything: list[Object], whole_cluster: list[Object]) -> None:
    pods = gateway.deployment(models.model(name="sim"), models.SETTINGS)["template"]
    ports = {port["name"] for port in pods["spec"]["containers"][0]["ports"]}
    for objects, where in ((everything, {"matchNames": ["team-a"]}), (whole_cluster, {"any": True})):
        monitor = of_kind(objects, "PodMonitor")["spec"]
        assert monitor["selector"]["matchLabels"].items() <= pods["metadata"]["labels"].items()
        assert monitor["namespaceSelector"] == where
        (endpoint,) = monitor["podMetricsEndpoints"]
        assert endpoint["port"] in ports
        (label,) = endpoint["relabelings"][0]["sourceLabels"]
        assert label == "__meta_kubernetes_pod_label_" + re.sub(r"\W", "_", names.MODEL_LABEL)

        service, monitor = of_kind(objects, "Service"), of_kind(objects, "ServiceMonitor")["spec"]
        assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
        assert service["spec"]["selector"].items() <= pod_of(objects)["metadata"]["labels"].items()
        assert [port["name"] for port in service["spec"]["ports"]] == [monitor["endpoints"][0]["port"]]
    assert of_kind(everything, "ServiceMonitor")["spec"]["endpoints"][0]["interval"] == "15s"
    for kind in ("ServiceMonitor", "PodMonitor", "PrometheusRule"):
        assert of_kind(everything, kind)["metadata"]["labels"]["release"] == "prometheus"
    assert of_kind(everything, "ConfigMap")["metadata"]["labels"]["grafana_dashboard"] == "yes"


def test_several_releases_share_no_name(helm: Helm) -> None:
    def outside(release: str, namespace: str) -> set[tuple[str, str]]:
        parts = [f"--show-only=templates/{name}.yaml" for name in ("rbac", "users")]
        found = helm.objects(*parts, release=release, namespace=namespace)
        return {
            (body["kind"], body["metadata"]["name"]) for body in found if body["metadata"].get("namespace") != namespace
        }

    first, *others = outside("a", "b-c"), outside("a", "b"), outside("a-b", "c"), outside("b", "b-c")
    assert len(first) == 7
    for other in others:
        assert not first & other
        first |= other


def test_any_name_of_a_release_gives_good_names(helm: Helm) -> None:
    release = f"{'x' * 40}.{'y' * 8}.v-1"
    for body in helm.objects(MONITORING, release=release):
        name = body["metadata"]["name"]
        assert len(name) <= 63
        # Rights may have a colon in their names.
        assert A_NAME.fullmatch(name) or body["kind"] in {*CLUSTER_SCOPED, *ROLES, "CustomResourceDefinition"}
        if body["kind"] == "DPModel":
            assert len(name) <= 40


@pytest.mark.parametrize("word", ["123", "1e3", "true", "null", "0x1f"])
def test_names_that_yaml_would_take_for_something_else_stay_names(helm: Helm, word: str) -> None:
    given = values(priorityClassName=word, leaseNamespace=word, serviceMonitor__interval="1m")
    text = [flag if flag != "--set" else "--set-string" for flag in given]

    objects = helm.objects(MONITORING, *text, release=word, namespace=word)

    assert {type(value) for value in scalars(objects, "namespace", "name", "priorityClassName", "interval")} == {str}
    assert of_kind(objects, "Role")["metadata"]["namespace"] == word
    assert pod_of(objects)["metadata"]["labels"]["app.kubernetes.io/instance"] == word
    of_namespaces = helm.objects("--set-string", f"namespaces={{{word}}}", release=word, namespace=word)
    assert of_kind(of_namespaces, "Role")["metadata"]["namespace"] == word


def scalars(node: object, *keys: str) -> Iterator[object]:
    """The plain values under these keys, wherever they are."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key in keys and not isinstance(value, dict | list):
                yield value
            yield from scalars(value, *keys)
    elif isinstance(node, list):
        for item in node:
            yield from scalars(item, *keys)


def test_no_value_ends_its_place_in_a_template(helm: Helm) -> None:
    image = "registry/a:1:"  # YAML would take a colon at the end for a key
    objects = helm.objects("--set-string", f"defaults.engineImage={image},test.endpoint=http://a/v1:")

    assert f"--engine-image={image}" in pod_of(objects)["spec"]["containers"][0]["args"]
    asks = next(body for body in objects if body["kind"] == "Pod")
    assert asks["spec"]["containers"][0]["command"][-1] == "http://a/v1:"


def test_the_image_is_named_by_its_digest_if_one_is_said(helm: Helm, everything: list[Object]) -> None:
    def image(objects: list[Object]) -> str:
        return str(pod_of(objects)["spec"]["containers"][0]["image"])

    assert re.fullmatch(r"registry\.example\.org/dp-vllm/operator@sha256:\w{64}", image(everything))
    only = "--show-only=templates/operator.yaml"
    assert image(helm.objects(only)) == f"dp-vllm/operator:{__version__}"
    assert image(helm.objects(only, "--set-string", "image.tag=2")) == "dp-vllm/operator:2"


def test_a_user_is_named_only_if_one_is_said(helm: Helm, everything: list[Object], whole_cluster: list[Object]) -> None:
    assert pod_of(everything)["spec"]["securityContext"]["runAsUser"] == 1000
    only = "--show-only=templates/operator.yaml"
    for objects in (whole_cluster, helm.objects(only, *values(securityContext__runAsUser="null"))):
        assert "runAsUser" not in pod_of(objects)["spec"]["securityContext"]


def test_one_operator_has_no_budget_that_would_hold_up_a_drain(
    everything: list[Object], whole_cluster: list[Object]
) -> None:
    assert [body for body in whole_cluster if body["kind"] == "PodDisruptionBudget"] == []
    assert of_kind(everything, "PodDisruptionBudget")["spec"]["maxUnavailable"] == 1


def test_the_notes_show_a_model_that_is_one(helm: Helm) -> None:
    flags = ("--dry-run=client", "--hide-notes=false", "--namespace=ns", *values(test__engineImage="r/sim:1"))
    notes = helm.run("install", "dp-vllm", str(CHART), *flags).partition("\nNOTES:\n")[2]
    shown = yaml.safe_load(re.search(r"<<END\n(.*?)\n *END\n", notes, re.DOTALL)[1])  # type: ignore[index]
    assert (shown["kind"], shown["apiVersion"]) == (names.KIND, f"{names.API_GROUP}/{names.API_VERSION}")
    read = spec.read(shown["spec"])
    assert read.engine.image == "r/sim:1"
    assert f'"model": "{read.model}"' in notes
    assert f"service/{shown['metadata']['name']}" in notes
    for words in ("/v1/chat/completions", "crds.enabled=false", "--take-ownership", "helm test dp-vllm"):
        assert words in notes
