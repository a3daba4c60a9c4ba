"""Every rule of the custom resource on a real API server: an object that it lets pass, and one that it refuses."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from dp_vllm import crd, names
from dp_vllm.engine.flags import vllm_flags
from dp_vllm.spec import owned_flags
from dp_vllm.spec.owned_flags import Owned

if TYPE_CHECKING:
    from dp_vllm.kubernetes_api import KubernetesApi

Spec = dict[str, Any]
PATH = f"/apis/{names.API_GROUP}/{names.API_VERSION}/namespaces/default/{names.PLURAL}"

pytestmark = pytest.mark.usefixtures("dpmodels")


@dataclass(frozen=True)
class Case:
    """What one rule lets pass, and what it refuses."""

    at: str
    """Where the rule stands."""
    says: str
    """Part of its message, which no other rule there has."""
    right: Spec
    wrong: Spec
    name: tuple[str, str] = field(default=("m", "m"))

    @property
    def message(self) -> str:
        (message,) = (message for at, message in rules() if at == self.at and self.says in message)
        return message

    def __str__(self) -> str:
        return f"{self.at} {self.says}"


def engine(**fields: Any) -> Spec:
    return {"engine": fields}


def cache(**fields: Any) -> Spec:
    return {"cache": fields}


def text(at: str, says: str, right: str, wrong: str) -> Case:
    """A case for a field of text."""

    def spec(value: object) -> Spec:
        for step in reversed(re.findall(r"\w+|\[\]|\{\}", at.removeprefix("spec."))):
            value = [value] if step == "[]" else {"cpu": value} if step == "{}" else {step: value}
        assert isinstance(value, dict)
        return value

    return Case(at, says, spec(right), spec(wrong))


AMOUNTS = [f"spec.{of}.resources.{which}{{}}" for of in ("engine", "gateway") for which in ("limits", "requests")]
LONGEST, TOO_LONG = "m" * 40, "m" * 41
CASES = [
    Case("", "spec.servedModelName", {}, {}, name=(LONGEST, TOO_LONG)),
    Case("", "spec.servedModelName", {}, {}, name=("qwen3-8b", "qwen3-0.6b")),
    Case("", "spec.servedModelName", {}, {}, name=("m1", "1m")),
    text("spec.model", "without blanks", "s3://bucket/model", "a b"),
    text("spec.model", "without blanks", "/models/qwen3", "./qwen3"),
    text("spec.model", "without blanks", "org/m", "m\n"),
    Case(
        "spec",
        "without a cache",
        {"model": "/cache/qwen3", "cache": {"existingClaim": "models"}},
        {"model": "/cache/qwen3"},
    ),
    text("spec.servedModelName", "no dash", "模型", "-m"),
    text("spec.engine.image", "vllm/vllm-openai", "localhost:5000/v:1@sha256:0a", "vllm openai"),
    text("spec.gateway.image", "vllm/vllm-openai", "g", "g g"),
    text("spec.engine.accelerator", "nvidia.com/gpu", "amd.com/gpu", "gpu"),
    text("spec.engine.accelerator", "nvidia.com/gpu", "none", "None"),
    text("spec.engine.shmSize", "200Gi", "1.5Gi", "100m"),
    text("spec.engine.shmSize", "200Gi", "1", "0"),
    text("spec.cache.claim.size", "200Gi", "10Ti", "10TB"),
    Case(
        "spec.cache.claim.storageClassName",
        "storage class",
        cache(claim={"size": "1Gi", "storageClassName": ""}),
        cache(claim={"size": "1Gi", "storageClassName": "A"}),
    ),
    text("spec.cache.existingClaim", "small letters", "models.2026", "Models"),
    text("spec.cache.hostPath", "absolute path", "/a/..b/.c/", "a"),
    text("spec.cache.hostPath", "absolute path", "/a", "/a/../b"),
    text("spec.cache.hostPath", "absolute path", "/a", "/"),
    *(text(at, "500m", "500m", "1/2") for at in AMOUNTS),
    *(
        Case(f"spec.{ref}.{part}", says, {ref: {"name": "a", part: right}}, {ref: {"name": "a", part: wrong}})
        for ref in ("hfTokenSecretRef", "apiKeySecretRef", "adminApiKeySecretRef")
        for part, says, right, wrong in (("name", "small letters", "a", "A"), ("key", "a key", "a_B", "a b"))
    ),
    Case(
        "spec.cache",
        "exclude each other",
        cache(claim={"size": "1Gi"}),
        cache(claim={"size": "1Gi"}, existingClaim="c"),
    ),
    Case("spec.cache", "exclude each other", cache(hostPath="/m"), cache(hostPath="/m", existingClaim="c")),
    Case(
        "spec.engine",
        "accelerator",
        engine(resources={"limits": {"cpu": 8, "nvidia.com/gpu": 1}}, accelerator="amd.com/gpu"),
        engine(resources={"limits": {"cpu": 8, "nvidia.com/gpu": 1}}),
    ),
    Case(
        "spec.engine",
        "accelerator",
        engine(resources={"requests": {"cpu": "8"}}),
        engine(resources={"requests": {"nvidia.com/gpu": "1"}}),
    ),
    Case(
        "spec.gateway.allowedOrigins[]",
        "an origin",
        {"gateway": {"allowedOrigins": ["https://a.example:8443", "null", "*"]}},
        {"gateway": {"allowedOrigins": ["https://a.example/page"]}},
    ),
    Case("spec.engine.runAsUser", "root", engine(runAsUser=-1), engine(runAsUser=0)),
    Case(
        "spec.engine.env[]",
        "valueFrom",
        engine(env=[{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}]),
        engine(env=[{"name": "A", "value": "", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}]),
    ),
    Case("spec.engine.env[].name", "`=`", engine(env=[{"name": "a.b-C"}]), engine(env=[{"name": "A=B"}])),
    Case("spec.engine.env", "VLLM_API_KEY", engine(env=[{"name": "VLLM_API"}]), engine(env=[{"name": "VLLM_API_KEY"}])),
    Case("spec.engine.env", "VLLM_DP_", engine(env=[{"name": "VLLM_DPX"}]), engine(env=[{"name": "VLLM_DP_SIZE"}])),
    Case("spec.engine.env", "DP_VLLM_", engine(env=[{"name": "DP_VLLM"}]), engine(env=[{"name": "DP_VLLM_API_KEY"}])),
    Case("spec.engine.args", "two items", engine(args=["--seed", "1 2"]), engine(args=["--seed 1"])),
    Case("spec.engine.args", "the first item", engine(args=["--seed", "1"]), engine(args=["1", "--seed"])),
    Case("spec.engine.args", "`--`", engine(args=["--seed", "1"]), engine(args=["--seed", "1", "--"])),
    *(
        Case("spec.engine.args", owned.shown[-1].rstrip("*"), engine(args=[]), engine(args=["--seed", "1", word]))
        for owned in owned_flags.OWNED
        for word in [(*owned_flags.words(owned).whole, *owned_flags.words(owned).beginnings)[-1]]
    ),
]


def rules() -> Iterator[tuple[str, str]]:
    """Each rule that a new object is held to: where it stands, and its message."""

    def of(schema: dict[str, Any], at: str) -> Iterator[tuple[str, str]]:
        for rule in schema.get("x-kubernetes-validations", ()):
            if "oldSelf" not in rule["rule"]:
                yield at.removeprefix("."), rule["message"]
        for name, inner in schema.get("properties", {}).items():
            yield from of(inner, f"{at}.{name}")
        for key, mark in (("items", "[]"), ("additionalProperties", "{}")):
            if key in schema:
                yield from of(schema[key], at + mark)

    (version,) = crd.custom_resource_definition()["spec"]["versions"]
    yield from of(version["schema"]["openAPIV3Schema"], "")


async def refusal(api: "KubernetesApi", spec: Spec, name: str = "m") -> str:
    """Why the API server would not take such a DPModel; empty if it would."""
    from dp_vllm.kubernetes_api import ApiError  # takes a while to import

    body = {
        "apiVersion": f"{names.API_GROUP}/{names.API_VERSION}",
        "kind": names.KIND,
        "metadata": {"name": name},
        "spec": {"model": "org/m"} | spec,
    }
    try:
        await api.request("POST", PATH, body=body, query={"dryRun": "All", "fieldValidation": "Strict"})
    except ApiError as error:
        return error.message
    return ""


def test_every_rule_has_a_case() -> None:
    assert {(case.at, case.message) for case in CASES} == set(rules())


@pytest.mark.parametrize("case", CASES, ids=str)
async def test_a_rule_lets_pass_and_refuses(case: Case, api: "KubernetesApi") -> None:
    assert await refusal(api, case.right, case.name[0]) == ""

    refused = await refusal(api, case.wrong, case.name[1])
    assert case.message in refused
    assert case.at.partition("[")[0].partition("{")[0] in refused


@pytest.mark.parametrize("owned", owned_flags.OWNED, ids=lambda owned: owned.shown[-1])
async def test_a_flag_with_a_field_of_its_own_is_refused_in_every_spelling(owned: Owned, api: "KubernetesApi") -> None:
    words = owned_flags.words(owned)
    for word in (*words.whole, *(f"{beginning}x" for beginning in words.beginnings)):
        for typed in {word, f"{word}=1", word.replace("-", "_").replace("_", "-", 2)}:
            assert owned.instead in await refusal(api, engine(args=[typed])), typed
            assert owned_flags.refusal([typed]) == (0, owned.instead)


async def test_every_other_flag_of_vllm_is_taken(api: "KubernetesApi") -> None:
    owned = [owned_flags.words(one) for one in owned_flags.OWNED]
    flags = [s for flag in vllm_flags() for s in flag.spellings if not any(words.have(s) for words in owned)]

    assert len(flags) > 300
    for start in range(0, len(flags), 128):
        assert await refusal(api, engine(args=flags[start : start + 128])) == ""


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"model": None}, ["spec.model: Required"]),
        ({"replicas": -1}, ["spec.replicas", "greater than or equal to 0"]),
        ({"tensorParallelSize": 0}, ["spec.tensorParallelSize", "greater than or equal to 1"]),
        ({"rollout": {"strategy": "Recreate"}}, ["spec.rollout.strategy", '"Auto", "Drain", "Surge"']),
        ({"gateway": {"policy": "random"}}, ["spec.gateway.policy", '"least-load", "power-of-two", "prefix"']),
        ({"gateway": {"prefixWeight": -1}}, ["spec.gateway.prefixWeight", "greater than or equal to 0"]),
        ({"gateway": {"firstByteSeconds": -1}}, ["spec.gateway.firstByteSeconds", "greater than or equal to 0"]),
        (cache(claim={"size": "1Gi", "accessMode": "ReadOnlyMany"}), ["accessMode", '"ReadWriteMany"']),
        (engine(args=[8192]), ["spec.engine.args[0]", "must be of type string"]),
        (engine(env=[{"name": "A"}, {"name": "A", "value": "1"}]), ["spec.engine.env[1]: Duplicate value"]),
        (engine(resources={"limits": {"cpu": 0.5}}), ["spec.engine.resources.limits.cpu", "integer,string"]),
        ({"tensorParalelSize": 2}, ['unknown field "spec.tensorParalelSize"']),
        (engine(arg=["-q"]), ['unknown field "spec.engine.arg"']),
        ({"template": {"containers": []}}, ['unknown field "spec.template.containers"']),
    ],
)
async def test_a_value_of_the_wrong_kind_is_refused(spec: Spec, words: list[str], api: "KubernetesApi") -> None:
    refused = await refusal(api, spec)

    assert all(word in refused for word in words), refused


async def test_a_template_may_have_any_field_of_a_pod(api: "KubernetesApi") -> None:
    pod = {"imagePullSecrets": [{"name": "a"}], "containers": [{"name": "engine", "securityContext": {}}]}
    metadata = {"labels": {"team": "a"}, "annotations": {"b": "c"}}

    assert await refusal(api, {"template": {"metadata": metadata, "spec": pod}}) == ""


async def test_the_largest_arguments_are_not_too_costly_to_check(api: "KubernetesApi") -> None:
    assert await refusal(api, engine(args=["-q", *["x" * 8192] * 127])) == ""
    assert await refusal(api, engine(args=["--chat-template=" + "x" * 8000] * 64)) == ""
