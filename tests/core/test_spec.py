"""The DPModel's spec: what is read, what is refused and in which words, what is written."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_specs import json_values, specs

from dp_vllm import spec
from dp_vllm.spec import BadSpec, Strategy


def with_model(**fields: Any) -> dict[str, Any]:
    return {"model": "org/m", **fields}


def refusal_of(asked: object) -> str:
    with pytest.raises(BadSpec) as refused:
        spec.read(asked)
    return str(refused.value)


def test_only_the_model_must_be_said() -> None:
    read = spec.read({"model": "Qwen/Qwen3-8B"})

    assert (read.served_name, read.replicas, read.accelerators) == ("Qwen/Qwen3-8B", 1, 1)
    assert (read.engine.run_as_user, read.rollout.strategy) == (2000, Strategy.AUTO)


def test_a_replica_gets_accelerators_for_all_its_layers() -> None:
    parallel = with_model(tensorParallelSize=4, pipelineParallelSize=2)

    assert spec.read(parallel).accelerators == 8
    assert spec.read({**parallel, "engine": {"accelerator": "none"}}).accelerators == 0


def test_the_platform_may_choose_the_user() -> None:
    assert spec.read(with_model(engine={"runAsUser": -1})).engine.run_as_user is None


def test_fields_of_a_newer_release_are_left_alone() -> None:
    assert spec.read(with_model(fieldOfTomorrow=1, engine={"another": {}})) == spec.read(with_model(engine={}))


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({}, ["spec.model is missing", "Qwen/Qwen3-8B"]),
        ([], ["spec: [] is not allowed", "a mapping"]),
        ({"model": "a b"}, ["spec.model: 'a b'", "without blanks"]),
        ({"model": "org/m\n"}, ["spec.model", "without blanks"]),
        ({"model": "./m"}, ["spec.model: './m'", "an absolute path"]),
        ({"model": "--host"}, ["spec.model: '--host'", "no dash"]),
        (with_model(servedModelName=""), ["spec.servedModelName: ''"]),
        (with_model(replicas="two"), ["spec.replicas: 'two'", "a whole number from 0 to 1000"]),
        (with_model(replicas=-1), ["spec.replicas: -1", "from 0 to 1000"]),
        (with_model(replicas=True), ["spec.replicas: true"]),
        (with_model(tensorParallelSize=0), ["spec.tensorParallelSize: 0", "from 1 to 64"]),
        (with_model(engine=None), ["spec.engine: null", "a mapping"]),
        (with_model(engine={"image": "a b"}), ["spec.engine.image: 'a b'", "vllm/vllm-openai:"]),
        (with_model(engine={"args": "--max-model-len"}), ["spec.engine.args", "a list of at most 128 items"]),
        (with_model(engine={"args": ["--seed", 8192]}), ["spec.engine.args[1]: 8192", "a text"]),
        (with_model(engine={"args": ["-q", "x" * 9000]}), ["spec.engine.args[1]: 'xxx", "...", "8192 characters"]),
        (with_model(engine={"env": [{"value": "1"}]}), ["spec.engine.env[0].name is missing", "a variable"]),
        (with_model(engine={"env": [{"name": "A=B"}]}), ["spec.engine.env[0].name: 'A=B'", "`=`"]),
        (with_model(engine={"env": [{"name": "VLLM_API_KEY"}]}), ["spec.engine.env[0]", "spec.apiKeySecretRef"]),
        (with_model(engine={"env": [{"name": "VLLM_DP_SIZE"}]}), ["spec.engine.env[0]", "spec.replicas"]),
        (with_model(engine={"resources": {"limits": {"cpu": 0.5}}}), ["spec.engine.resources.limits[...]", "500m"]),
        (with_model(engine={"resources": {"limits": {"cpu": -1}}}), ["spec.engine.resources.limits[...]"]),
        (with_model(engine={"accelerator": "gpu"}), ["spec.engine.accelerator: 'gpu'", "nvidia.com/gpu", "none"]),
        (with_model(engine={"runAsUser": 0}), ["spec.engine.runAsUser: 0 is root", "-1"]),
        (with_model(engine={"runAsUser": None}), ["spec.engine.runAsUser: null"]),
        (with_model(engine={"shmSize": 16}), ["spec.engine.shmSize: 16", "200Gi"]),
        (with_model(engine={"shmSize": "0Gi"}), ["spec.engine.shmSize: '0Gi'", "from 1 on"]),
        (with_model(engine={"hangTimeoutSeconds": 5}), ["spec.engine.hangTimeoutSeconds: 5", "from 30"]),
        (with_model(cache={"claim": {}}), ["spec.cache.claim.size is missing", "200Gi"]),
        (with_model(cache={"claim": {"size": "100m"}}), ["spec.cache.claim.size: '100m'", "200Gi"]),
        (
            with_model(cache={"claim": {"size": "1Gi", "accessMode": "ReadOnlyMany"}}),
            ["spec.cache.claim.accessMode: 'ReadOnlyMany'", "ReadWriteMany or ReadWriteOnce"],
        ),
        (with_model(cache={"claim": {"size": "1Gi"}, "hostPath": "/m"}), ["spec.cache: claim and hostPath exclude"]),
        (with_model(cache={"hostPath": "/models/../etc"}), ["spec.cache.hostPath: '/models/../etc'", "`..`"]),
        (with_model(cache={"hostPath": "/"}), ["spec.cache.hostPath: '/'"]),
        (with_model(cache={"existingClaim": "My_Claim"}), ["spec.cache.existingClaim: 'My_Claim'", "small letters"]),
        (with_model(apiKeySecretRef={}), ["spec.apiKeySecretRef.name is missing"]),
        (with_model(rollout={"strategy": "Recreate"}), ["spec.rollout.strategy: 'Recreate'", "Auto", "Drain", "Surge"]),
        (with_model(rollout={"paused": "yes"}), ["spec.rollout.paused: 'yes'", "true or false"]),
        (with_model(gateway={"service": {"port": 0}}), ["spec.gateway.service.port: 0", "from 1 to 65535"]),
        (with_model(gateway={"policy": "random"}), ["spec.gateway.policy: 'random'", "round-robin or session"]),
    ],
)
def test_a_refusal_names_the_field_the_value_and_what_is_allowed(asked: object, words: list[str]) -> None:
    refusal = refusal_of(asked)

    assert all(word in refusal for word in words), refusal
    assert len(refusal) < 300


@given(specs())
def test_what_is_written_is_read_again(asked: dict[str, Any]) -> None:
    once = spec.read(asked)
    written = spec.write(once)

    assert spec.read(written) == once
    assert spec.write(spec.read(written)) == written


@settings(max_examples=25)
@given(specs())
def test_only_what_differs_from_the_defaults_is_written(asked: dict[str, Any]) -> None:
    def leaves(of: Any, at: str = "") -> set[tuple[str, str]]:
        if not isinstance(of, dict):
            return {(at, repr(of))}
        return {leaf for name, value in of.items() for leaf in leaves(value, f"{at}.{name}")}

    assert leaves(spec.write(spec.read(asked))) <= leaves(asked)


@given(specs(), json_values(), st.data())
def test_nonsense_anywhere_is_refused_in_words(asked: dict[str, Any], nonsense: Any, data: st.DataObject) -> None:
    at = asked
    while (
        isinstance(inner := at[name := data.draw(st.sampled_from(sorted(at)))], dict)
        and inner
        and data.draw(st.booleans())
    ):
        at = inner
    at[name] = nonsense
    refusal = ""
    try:
        spec.read(asked)
    except BadSpec as error:
        refusal = str(error)

    assert not refusal or refusal.startswith("spec")
    assert len(refusal) < 600
