"""Alerts and the board speak of series that there are, and alerts come when they should."""

import json
import random
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import programs
import pytest
import replica_pods
import wire
import yaml
from chart.helm import Helm, Object, of_kind, values
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from scripted_api import api_server

from dp_vllm_operator.health import Health
from dp_vllm_operator.metrics import Metrics
from dp_vllm_operator.queue import Key, Keys

Series = dict[str, set[str]]
"""The labels of each."""

OF_SCRAPES: Final = {"namespace", "pod"}
"""Labels that Prometheus adds to what it scrapes; the PodMonitor adds `model`."""

SELECTION: Final = re.compile(r"\b((?:dp_vllm_|vllm:)\w+)(?:\{([^}]*)\})?")
GROUPING: Final = re.compile(r"\b(?:by|on) ?\(([^)]*)\)")

TESTS: Final = Path(__file__).with_name("alerts.yaml")


@pytest.fixture(scope="module")
def rules(helm: Helm) -> Object:
    """The alerts of the release `dp-vllm` in the namespace `ns`."""
    only = "--show-only=templates/alerts.yaml"
    spec: Object = of_kind(helm.objects(only, *values(prometheusRule__enabled="true")), "PrometheusRule")["spec"]
    return spec


@pytest.fixture(scope="module")
def board(helm: Helm) -> Any:
    made = helm.objects("--show-only=templates/board.yaml", *values(grafanaDashboard__enabled="true"))
    return json.loads(of_kind(made, "ConfigMap")["data"]["dp-vllm.json"])


def alerts(rules: Object) -> list[Object]:
    return [rule for group in rules["groups"] for rule in group["rules"]]


def shown(board: Any) -> list[str]:
    return [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]


def series(text: bytes) -> Series:
    found: Series = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def of_operator() -> Series:
    keys = Keys(rng=random.Random(1))
    metrics = Metrics(keys, Health(keys))
    metrics.wrote("create", "pods")
    metrics.models.show(Key("ns", "m"), 1, {"conditions": [{"type": "Ready", "status": "True"}]})
    return series(generate_latest(metrics.registry))


@pytest.fixture
def gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[programs.Program]:
    """A gateway as the operator starts it, with one simulated engine."""
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    address = replica_pods.address()
    with api_server() as server, programs.sim(tmp_path, host=address, port=replica_pods.PORT):
        monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig(tmp_path / "kubeconfig")))
        server.put(replica_pods.pod("m-1-0", replica_pods.running(address)))
        with programs.gateway(tmp_path, "--kubernetes-model", "m") as program:
            yield program


def unknown(expression: str, known: Series) -> Iterator[str]:
    """What is asked for and nobody tells."""
    labels = {"le"} | OF_SCRAPES
    for name, matchers in SELECTION.findall(expression):
        if name not in known:
            yield name
            continue
        has = known[name] | OF_SCRAPES | ({"model"} if "_operator_" not in name and "_model_" not in name else set())
        labels |= has
        yield from (f"{name}: {label}" for label in re.findall(r"(\w+)(?:=|!)", matchers) if label not in has)
    for group in GROUPING.findall(expression):
        yield from (label for label in re.split(", ?", group) if label not in labels)


async def test_every_series_is_told(rules: Object, board: Any, gateway: programs.Program) -> None:
    body = {"model": "demo/model", "prompt": "Hello", "max_tokens": 4, "stream": True}
    assert wire.ask(gateway.url, "POST", "/v1/completions", json.dumps(body).encode()).status == 200
    programs.wait_until(lambda: b"\nvllm:" in wire.ask(gateway.url, "GET", "/metrics").body, "the engine's metrics")
    known = series(wire.ask(gateway.url, "GET", "/metrics").body) | of_operator()
    expressions = [rule["expr"] for rule in alerts(rules)] + shown(board)
    assert len(expressions) > 30
    assert [fault for expression in expressions for fault in unknown(expression, known)] == []
    assert list(unknown('sum by (x) (dp_vllm_model_condition{y="1"}) + vllm:z', known)) == [
        "dp_vllm_model_condition: y",
        "vllm:z",
        "x",
    ]


def test_panels_do_not_overlap_and_all_say_what_they_ask(board: Any) -> None:
    places: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        where = panel["gridPos"]
        cells = {(where["x"] + x, where["y"] + y) for x in range(where["w"]) for y in range(where["h"])}
        assert not places & cells and where["x"] + where["w"] <= 24, panel["title"]
        places |= cells
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    assert {variable["name"] for variable in board["templating"]["list"]} == {"datasource", "namespace", "model"}


def test_every_alert_says_what_to_do(rules: Object) -> None:
    for rule in alerts(rules):
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"].keys() == {"summary", "description"}


def checked(promtool: Path, folder: Path, *words: str) -> None:
    done = subprocess.run([promtool, *words], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_understands_what_the_board_asks(board: Any, promtool: Path, tmp_path: Path) -> None:
    """Each question as a rule: promtool checks no others. Grafana fills in the times."""
    asked = [expression.replace("$__rate_interval", "5m") for expression in shown(board)]
    rules = [{"record": f"asked:{number}", "expr": expression} for number, expression in enumerate(asked)]
    (tmp_path / "board.yaml").write_text(yaml.safe_dump({"groups": [{"name": "board", "rules": rules}]}))
    checked(promtool, tmp_path, "check", "rules", "board.yaml")


def test_alerts_come_when_they_should(rules: Object, promtool: Path, tmp_path: Path) -> None:
    """With Prometheus's own checker: all of them where all is wrong, none where all is well."""
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rules))
    tests = yaml.safe_load(TESTS.read_text())
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump({"rule_files": ["rules.yaml"], **tests}))
    raised = {each["alertname"] for test in tests["tests"] for each in test["alert_rule_test"] if each["exp_alerts"]}
    calm = {each["alertname"] for test in tests["tests"] for each in test["alert_rule_test"] if not each["exp_alerts"]}
    assert raised == calm == {rule["alert"] for rule in alerts(rules)}
    checked(promtool, tmp_path, "check", "rules", "rules.yaml")
    checked(promtool, tmp_path, "test", "rules", "tests.yaml")
