"""What the chart can be told: every value is known, described and checked."""

import importlib.util
import json
from collections.abc import Iterator
from types import ModuleType
from typing import Any, Final

import pytest
import yaml
from chart.helm import CHART, CI_FILES, Helm, Refused, values

VALUES: Final = (CHART / "values.yaml").read_text()

WRONG: Final = {
    "replicas=two": "at '/replicas': got string, want integer",
    "replica=2": "at '': additional properties 'replica' not allowed",
    "image.tagg=1": "at '/image': additional properties 'tagg' not allowed",
    "image.pullPolicy=Sometimes": "at '/image/pullPolicy': value must be one of 'Always', 'IfNotPresent', 'Never'",
    "image.digest=abc": "at '/image/digest': 'abc' does not match pattern",
    "namespaces={Team_A}": "at '/namespaces/0': 'Team_A' does not match pattern",
    "crds.enabled=yes": "at '/crds/enabled': got string, want boolean",
    "logFormat=xml": "at '/logFormat': value must be one of 'json', 'text'",
    "securityContext.runAsUser=-2": "at '/securityContext/runAsUser': minimum: got -2, want -1",
    "podLabels.a=1": "at '/podLabels/a': got number, want string",
    "resources.request.cpu=1": "at '/resources': additional properties 'request' not allowed",
    "serviceMonitor.interval=soon": "at '/serviceMonitor/interval': 'soon' does not match pattern",
    "affinity.nodes.a=b": "at '/affinity': additional properties 'nodes' not allowed",
    "tolerations[0].toleration=a": "at '/tolerations/0': additional properties 'toleration' not allowed",
    "test.endpoint=sim": "at '/test/endpoint': 'sim' does not match pattern",
}


@pytest.fixture(scope="module")
def readme() -> ModuleType:
    specification = importlib.util.spec_from_file_location("charts_readme", CHART.parent / "readme.py")
    assert specification and specification.loader
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def leaves(node: Any, path: str = "") -> Iterator[str]:
    if isinstance(node, dict) and node:
        for name, part in node.items():
            yield from leaves(part, f"{path}.{name}")
    else:
        yield path


def undeclared(default: Any, schema: dict[str, Any], path: str = "") -> Iterator[str]:
    """Values that the schema does not know, or would take anything for."""
    known = schema.get("properties", {})
    if schema.get("type") == "object" and "additionalProperties" not in schema:
        yield f"{path} may hold anything"
    for name, part in default.items() if known else ():
        if name not in known:
            yield f"{path}.{name}"
        elif isinstance(part, dict):
            yield from undeclared(part, known[name], f"{path}.{name}")


def test_there_are_few_and_the_schema_knows_each() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    defaults = yaml.safe_load(VALUES)
    assert len(list(leaves(defaults))) < 100
    assert list(undeclared(defaults, schema)) == []
    assert schema["properties"].keys() - {"global"} == defaults.keys()


def test_a_file_of_ci_says_every_value() -> None:
    said = yaml.safe_load((CHART / "ci" / "everything-values.yaml").read_text())
    defaults = yaml.safe_load(VALUES)
    assert {
        group: said[group].keys() for group in defaults if isinstance(defaults[group], dict) and defaults[group]
    } == {group: part.keys() for group, part in defaults.items() if isinstance(part, dict) and part}
    assert said.keys() == defaults.keys()


def test_each_wrong_value_is_refused_by_its_name(helm: Helm) -> None:
    with pytest.raises(Refused) as refused:
        helm.objects(*(word for wrong in WRONG for word in ("--set", wrong)))
    assert [told for told in WRONG.values() if told not in str(refused.value)] == []


def test_as_a_part_of_another_chart_it_takes_what_helm_adds(helm: Helm) -> None:
    assert helm.objects("--show-only=templates/operator.yaml", *values(global__registry="r"))


def test_helm_finds_no_fault(helm: Helm) -> None:
    for file in CI_FILES:
        assert "0 chart(s) failed" in helm.run("lint", "--strict", str(CHART), f"--values={file}")


def test_the_readme_describes_every_value(readme: ModuleType) -> None:
    text = (CHART / "README.md").read_text()
    assert readme.renewed(text, VALUES) == text, "python charts/readme.py"
    described = [f".{one.name}." for one in readme.values(VALUES)]
    assert [path for path in leaves(yaml.safe_load(VALUES)) if not f"{path}.".startswith(tuple(described))] == []
    assert "| `crds.enabled` | `true` | Install and upgrade the kind DPModel" in text


def test_a_value_without_a_comment_is_found(readme: ModuleType) -> None:
    with pytest.raises(ValueError, match=r"a\.c has no comment"):
        list(readme.values("a:\n  # About b.\n  b: 1\n  c: 2\n"))
