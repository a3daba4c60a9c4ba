"""DPModels in the hands of kubectl and autoscalers, on a real API server."""

import json
from collections.abc import Iterator
from typing import Any

import programs
import pytest
import yaml
from cluster.errors import ClusterError
from cluster.fixtures import Kubectl
from cluster.given import AnyCluster
from dpmodels import manifest

from dp_vllm import crd, names

pytestmark = pytest.mark.usefixtures("dpmodels")

FIELDS_OF_ALL_OBJECTS = ("apiVersion", "kind", "metadata")


def get(kubectl: Kubectl, *arguments: str) -> Any:
    return json.loads(kubectl("get", *arguments, "--output=json"))


def write_status(kubectl: Kubectl, **status: Any) -> None:
    patch = json.dumps({"status": status})
    kubectl("patch", "dpm", "m", "--subresource=status", "--type=merge", f"--patch={patch}")


def condition(status: str, generation: int, **more: str) -> dict[str, Any]:
    return {
        "type": "Ready",
        "status": status,
        "reason": "AllReplicasReady",
        "message": "2 of 2 replicas are ready",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
        "observedGeneration": generation,
        **more,
    }


def test_the_definition_is_kept_as_it_is_printed(dpmodels: AnyCluster) -> None:
    kept = json.loads(dpmodels.kubectl("get", "crd", crd.NAME, "--output=json"))

    assert kept["spec"] == yaml.safe_load(crd.as_yaml())["spec"]
    assert not [c for c in kept["status"]["conditions"] if c["type"] == "NonStructuralSchema"]


def test_the_definition_can_be_applied_by_the_client(dpmodels: AnyCluster) -> None:
    dpmodels.kubectl("apply", "--filename=-", stdin=crd.as_yaml())

    assert dpmodels.kubectl("diff", "--filename=-", stdin=crd.as_yaml()) == ""


def test_every_field_is_explained(dpmodels: AnyCluster) -> None:
    def undescribed(schema: dict[str, Any], path: str) -> Iterator[str]:
        if not schema.get("description") and path.rpartition(".")[2].isalnum():
            yield path
        for name, field in schema.get("properties", {}).items():
            if path or name not in FIELDS_OF_ALL_OBJECTS:
                yield from undescribed(field, f"{path}.{name}")
        if "items" in schema:
            yield from undescribed(schema["items"], f"{path}[]")

    path = f"apis/{names.API_GROUP}/{names.API_VERSION}"
    programs.wait_until(lambda: path in dpmodels.kubectl("get", "--raw=/openapi/v3"), "the schema is published")
    published = json.loads(dpmodels.kubectl("get", f"--raw=/openapi/v3/{path}"))
    (schema,) = (s for name, s in published["components"]["schemas"].items() if name.endswith(f".{names.KIND}"))
    assert list(undescribed(schema, "")) == []

    told = dpmodels.kubectl("explain", "dpm.spec.engine.args")
    assert "Further flags of `vllm serve`" in told
    assert "Progressing: a first start" in " ".join(dpmodels.kubectl("explain", "dpm.status.conditions.type").split())


def test_what_was_applied_does_not_differ(kubectl: Kubectl) -> None:
    wanted = manifest("m", engine={"env": [{"name": "A", "value": "1"}]}, cache={"claim": {"size": "1Gi"}})
    for options in (["--server-side"], []):
        kubectl("apply", *options, "--filename=-", stdin=wanted)
        assert kubectl("diff", *options, "--filename=-", stdin=wanted) == ""

    with pytest.raises(ClusterError):  # kubectl ends with 1 if there is a difference
        kubectl("diff", "--filename=-", stdin=manifest("m", replicas=2))


def test_defaults_are_filled_in(kubectl: Kubectl) -> None:
    kubectl("apply", "--filename=-", stdin=manifest("m"))

    spec = get(kubectl, "dpm/m")["spec"]
    assert spec.pop("model") == "org/m"
    assert spec == {
        "replicas": 1,
        "tensorParallelSize": 1,
        "pipelineParallelSize": 1,
        "engine": {
            "accelerator": "nvidia.com/gpu",
            "runAsUser": 2000,
            "startupTimeoutSeconds": 3600,
            "hangTimeoutSeconds": 180,
            "shmSize": "10Gi",
        },
        "cache": {},
        "rollout": {
            "strategy": "Auto",
            "drainTimeoutSeconds": 300,
            "surgeTimeoutSeconds": 60,
            "progressDeadlineSeconds": 3600,
            "paused": False,
        },
        "gateway": {
            "policy": "prefix",
            "prefixWeight": 12,
            "firstByteSeconds": 0,
            "service": {"type": "ClusterIP", "port": 80},
        },
    }


def test_the_user_can_be_left_to_the_platform_and_taken_back(kubectl: Kubectl) -> None:
    for user in (-1, 3000, -1):
        kubectl("apply", "--filename=-", stdin=manifest("m", engine={"runAsUser": user}))
        assert get(kubectl, "dpm/m")["spec"]["engine"]["runAsUser"] == user

    kubectl("apply", "--filename=-", stdin=manifest("m"))
    assert get(kubectl, "dpm/m")["spec"]["engine"]["runAsUser"] == 2000


def test_an_unknown_field_is_refused_before_anything_is_made(kubectl: Kubectl) -> None:
    with pytest.raises(ClusterError, match=r'unknown field \\?"spec.engine.arg\\?"'):
        kubectl("apply", "--filename=-", stdin=manifest("m", engine={"arg": []}))

    assert get(kubectl, "dpm")["items"] == []


def test_one_waits_for_what_is_true_of_the_present_spec(kubectl: Kubectl) -> None:
    kubectl("apply", "--filename=-", stdin=manifest("m"))
    write_status(kubectl, conditions=[condition("True", 1)])
    kubectl("wait", "--for=condition=Ready", "dpm/m", "--timeout=10s")

    kubectl("apply", "--filename=-", stdin=manifest("m", replicas=2))  # generation 2
    with pytest.raises(ClusterError, match="timed out"):
        kubectl("wait", "--for=condition=Ready", "dpm/m", "--timeout=1s")

    write_status(kubectl, conditions=[condition("True", 2)])
    kubectl("wait", "--for=condition=Ready", "dpm/m", "--timeout=10s")


def test_the_columns_tell_what_is_wrong(kubectl: Kubectl) -> None:
    kubectl("apply", "--filename=-", stdin=manifest("m", model="Qwen/Qwen3-8B", replicas=4, tensorParallelSize=2))
    message = "0 of 4 replicas are ready: 4 wait for 2 nvidia.com/gpu each"
    write_status(
        kubectl, readyReplicas=0, conditions=[condition("False", 1, reason="InsufficientAccelerators", message=message)]
    )

    header, line = kubectl("get", "dpm").splitlines()
    assert header.split() == ["NAME", "MODEL", "READY", "DESIRED", "TP", "PP", "STATUS", "AGE"]
    assert line.split()[:-1] == ["m", "Qwen/Qwen3-8B", "0", "4", "2", "1", "InsufficientAccelerators"]

    header, line = kubectl("get", names.PRODUCT, "--output=wide").splitlines()
    assert header.split()[-1] == "MESSAGE"
    assert line.endswith(message)


def test_a_status_that_no_operator_would_write_is_refused(kubectl: Kubectl) -> None:
    kubectl("apply", "--filename=-", stdin=manifest("m"))

    with pytest.raises(ClusterError, match=r"status.conditions\[1\]: Duplicate value"):
        write_status(kubectl, conditions=[condition("True", 1), condition("False", 1)])
    with pytest.raises(ClusterError, match="reason"):
        write_status(kubectl, conditions=[condition("True", 1, reason="two words")])
    many = [{"name": f"m-1-{number}", "phase": "Loading"} for number in range(33)]
    with pytest.raises(ClusterError, match="must have at most 32 items"):
        write_status(kubectl, replicaStatuses=many)
    write_status(kubectl, replicaStatuses=many[:32])


def test_a_change_of_the_status_is_no_new_generation(kubectl: Kubectl) -> None:
    kubectl("apply", "--filename=-", stdin=manifest("m"))
    write_status(kubectl, replicas=7)
    kubectl("patch", "dpm", "m", "--type=merge", '--patch={"status": {"replicas": 8}}')

    kept = get(kubectl, "dpm/m")
    assert (kept["metadata"]["generation"], kept["status"]) == (1, {"replicas": 7})


def test_it_scales_and_down_to_none(kubectl: Kubectl) -> None:
    kubectl("apply", "--filename=-", stdin=manifest("m"))
    for replicas in (4, 0, 1):
        kubectl("scale", "dpm/m", f"--replicas={replicas}")
        assert get(kubectl, "dpm/m")["spec"]["replicas"] == replicas

    with pytest.raises(ClusterError, match="less than or equal to 1000"):
        kubectl("scale", "dpm/m", "--replicas=1001")


def test_the_number_of_replicas_is_nobodys_who_leaves_it_out(kubectl: Kubectl) -> None:
    for options in ([], ["--server-side"]):
        kubectl("apply", *options, "--filename=-", stdin=manifest("m"))
        kubectl("scale", "dpm/m", "--replicas=5")
        kubectl("apply", *options, "--filename=-", stdin=manifest("m", tensorParallelSize=2))
        assert get(kubectl, "dpm/m")["spec"]["replicas"] == 5
        kubectl("delete", "dpm/m")


def test_an_autoscaler_scales_it(kubectl: Kubectl) -> None:
    kubectl("apply", "--filename=-", stdin=manifest("m"))
    selector = f"{names.MODEL_LABEL}=m,{names.COMPONENT_LABEL}={names.REPLICA}"
    write_status(kubectl, replicas=1, selector=selector)

    scale = get(kubectl, "dpm/m", "--subresource=scale")
    assert (scale["spec"]["replicas"], scale["status"]) == (1, {"replicas": 1, "selector": selector})

    kubectl("autoscale", f"{names.PLURAL}.{names.API_GROUP}/m", "--min=3", "--max=5", "--cpu-percent=50")
    programs.wait_until(lambda: get(kubectl, "dpm/m")["spec"]["replicas"] == 3, "the autoscaler", 40, every=0.2)


def test_two_managers_share_the_environment(kubectl: Kubectl) -> None:
    for manager in ("team", "platform"):
        engine = {"env": [{"name": manager.upper(), "value": "1"}]}
        kubectl(
            *("apply", "--server-side", f"--field-manager={manager}", "--filename=-"),
            stdin=manifest("m", engine=engine),
        )
    assert [v["name"] for v in get(kubectl, "dpm/m")["spec"]["engine"]["env"]] == ["TEAM", "PLATFORM"]

    kubectl("apply", "--server-side", "--field-manager=team", "--filename=-", stdin=manifest("m"))
    assert [v["name"] for v in get(kubectl, "dpm/m")["spec"]["engine"]["env"]] == ["PLATFORM"]


def test_arguments_have_one_owner(kubectl: Kubectl) -> None:
    arguments = {"engine": {"args": ["--seed", "1"]}}
    kubectl("apply", "--server-side", "--field-manager=team", "--filename=-", stdin=manifest("m", **arguments))

    with pytest.raises(ClusterError, match=r"conflict with .*team.*spec.engine.args"):
        kubectl(
            *("apply", "--server-side", "--field-manager=platform", "--filename=-"),
            stdin=manifest("m", engine={"args": ["-q", "fp8"]}),
        )
