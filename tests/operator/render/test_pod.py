"""What the pod of a replica says, and what a user's template can say otherwise."""

from typing import Any

import pytest
import random_specs
from hypothesis import given, settings
from hypothesis import strategies as st
from kubelet import container as kubelet_container
from models import SETTINGS, Json, engine, model, part, rendered, variables

from dp_vllm import names, spec
from dp_vllm.engine.flags import Flags, vllm_flags
from dp_vllm.spec import BadSpec
from dp_vllm_operator.render.contained import contains
from dp_vllm_operator.render.pod import engine_of, pod, pod_template
from dp_vllm_operator.revision import user_part


def with_engine(**fields: Any) -> Json:
    """A partial template that says something of the engine's container."""
    return {"spec": {"containers": [{"name": "engine", **fields}]}}


def flag(container: Json, name: str) -> Any:
    """The value of a flag in the engine's words; it is there once."""
    words = container["args"]
    assert words.count(name) == 1
    return words[words.index(name) + 1]


HUB = {"hub": {"token": "hf_secret"}}

# The command line


def test_the_words_are_the_model_the_users_flags_and_then_ours() -> None:
    container = engine(servedModelName="qwen", tensorParallelSize=2, engine={"args": ["--seed", "1"]})

    assert container["args"] == [
        *("org/model", "--seed", "1", "--tensor-parallel-size", "2"),
        *("--served-model-name", "qwen"),
        "--enable-server-load-tracking",
        *("--disable-access-log-for-endpoints", "/health,/metrics,/load"),
        *("--host", "0.0.0.0", "--port", "8000", "--shutdown-timeout", "0"),
    ]
    assert "command" not in container  # the image's entry point is the engine


@given(st.sampled_from("$()") | st.text("$()aHF_TOKEN", max_size=12), st.sampled_from(["$(HF_TOKEN)", "$$(HF_TOKEN)"]))
@settings(max_examples=50)
def test_the_model_and_its_name_are_no_references(around: str, reference: str) -> None:
    """Whatever stands in them, no Secret gets into the command line."""
    text = f"m{around}{reference}{around}"

    started = kubelet_container.words(engine(model=text, servedModelName=text, hfTokenSecretRef={"name": "hub"}), HUB)

    assert started[0] == text
    assert started[started.index("--served-model-name") + 1] == text


@pytest.mark.parametrize(
    ("word", "started"),
    [
        ("$(HOME)", "/home/dp-vllm"),  # as in any container
        ("$(OWN)", "x"),
        ("$$(OWN)", "$(OWN)"),
        ("$(HF_TOKEN)", "$(HF_TOKEN)"),
        ("$$$(HUGGING_FACE_HUB_TOKEN)$$(HF_TOKEN)", "$$(HUGGING_FACE_HUB_TOKEN)$(HF_TOKEN)"),
    ],
)
def test_flags_expand_all_but_the_hub_s_token(word: str, started: str) -> None:
    fields = {"args": ["--chat-template", word], "env": [{"name": "OWN", "value": "x"}]}

    container = engine(engine=fields, hfTokenSecretRef={"name": "hub"})

    assert kubelet_container.words(container, HUB)[2] == started


def test_no_other_variable_takes_in_the_hub_s_token() -> None:
    env = [{"name": "HF_TOKEN", "value": "x"}, {"name": "OTHER", "value": "$(HF_TOKEN)"}]
    fields = {"args": ["--chat-template", "$(OTHER)"], "env": env}

    container = engine(engine=fields, hfTokenSecretRef={"name": "hub"})

    assert kubelet_container.words(container, HUB)[2] == "$(HF_TOKEN)"


def test_a_token_of_the_user_s_own_expands() -> None:
    env = [{"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}}]

    container = engine(engine={"args": ["--chat-template", "$(HF_TOKEN)"], "env": env})

    assert kubelet_container.words(container, HUB)[2] == "hf_secret"


def test_sizes_that_are_one_are_not_said() -> None:
    assert not {"--tensor-parallel-size", "--pipeline-parallel-size"} & set(engine()["args"])
    assert flag(engine(pipelineParallelSize=3), "--pipeline-parallel-size") == "3"


@given(random_specs.specs())
@settings(max_examples=30)
def test_every_flag_of_ours_is_read_as_it_was_meant(fields: Json) -> None:
    args = rendered_engine(fields)["args"]
    told = {item.flag.name: item.values for item in Flags(vllm_flags()).read(args[1:]) if item.flag}

    assert told["--host"] == ("0.0.0.0",)
    assert told["--port"] == ("8000",)
    assert told["--shutdown-timeout"] == ("0",)
    assert "--enable-server-load-tracking" in told
    assert args[0] == fields["model"]


def rendered_engine(fields: Json) -> Json:
    return engine_of(pod_template("m", user_part(model(**fields), SETTINGS)))


# Accelerators, memory, files


@pytest.mark.parametrize(
    ("fields", "limits"),
    [
        ({}, {"nvidia.com/gpu": "1"}),
        ({"tensorParallelSize": 4, "pipelineParallelSize": 2}, {"nvidia.com/gpu": "8"}),
        ({"engine": {"accelerator": "amd.com/gpu"}, "tensorParallelSize": 2}, {"amd.com/gpu": "2"}),
        ({"engine": {"resources": {"limits": {"memory": "64Gi"}}}}, {"memory": "64Gi", "nvidia.com/gpu": "1"}),
        ({"template": with_engine(resources={"limits": {"nvidia.com/gpu": 7}})}, {"nvidia.com/gpu": "1"}),
        ({"engine": {"accelerator": "none", "resources": {"limits": {"cpu": 4}}}}, {"cpu": 4}),
    ],
)
def test_a_replica_gets_its_accelerators_beside_what_the_user_says(fields: Json, limits: Json) -> None:
    assert engine(**fields)["resources"]["limits"] == limits


def test_without_accelerators_nothing_is_asked_for() -> None:
    assert "resources" not in engine(engine={"accelerator": "none"}, tensorParallelSize=4)


def test_requests_never_contradict_limits() -> None:
    asked = engine(template=with_engine(resources={"requests": {"nvidia.com/gpu": 7, "cpu": 1}}))["resources"]

    assert asked == {"limits": {"nvidia.com/gpu": "1"}, "requests": {"nvidia.com/gpu": "1", "cpu": 1}}


def test_shared_memory_is_memory_and_has_a_limit() -> None:
    template = rendered(engine={"shmSize": "3Gi"})

    assert volume_at(template, "/dev/shm") == {"emptyDir": {"medium": "Memory", "sizeLimit": "3Gi"}}


def volume_at(template: Json, path: str) -> Json:
    """What is mounted into the engine's container at a path."""
    (mount,) = (mount for mount in engine_of(template)["volumeMounts"] if mount["mountPath"] == path)
    (volume,) = (volume for volume in template["spec"]["volumes"] if volume["name"] == mount["name"])
    return {key: value for key, value in volume.items() if key != "name"}


@pytest.mark.parametrize(
    ("cache", "volume"),
    [
        ({}, {"emptyDir": {}}),
        ({"existingClaim": "weights"}, {"persistentVolumeClaim": {"claimName": "weights"}}),
        ({"claim": {"size": "1Gi"}}, {"persistentVolumeClaim": {"claimName": "m-cache"}}),
        ({"hostPath": "/data"}, {"hostPath": {"path": "/data", "type": "Directory"}}),
    ],
)
def test_the_cache_is_the_volume_that_the_spec_names(cache: Json, volume: Json) -> None:
    assert volume_at(rendered(cache=cache), "/cache") == volume


@pytest.mark.parametrize("name", ["HOME", "HF_HOME", "XDG_CACHE_HOME", "VLLM_CACHE_ROOT", "TMPDIR"])
@pytest.mark.parametrize("cache", [{}, {"claim": {"size": "1Gi"}}, {"hostPath": "/data"}])
def test_whatever_is_written_goes_to_a_volume(name: str, cache: Json) -> None:
    container = engine(cache=cache)
    writable = [mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")]

    assert any(f"{variables(container)[name]}/".startswith(f"{path}/") for path in writable)


def test_a_user_id_without_a_name_has_one() -> None:
    assert variables(engine())["LOGNAME"]


@pytest.mark.parametrize(
    ("fields", "offline"),
    [
        ({}, False),
        ({"cache": {"hostPath": "/data"}}, False),
        ({"cache": {"existingClaim": "weights"}}, True),
        ({"cache": {"claim": {"size": "1Gi"}}}, True),
        ({"cache": {"claim": {"size": "1Gi"}}, "model": "gpt2"}, True),
        ({"cache": {"claim": {"size": "1Gi"}}, "model": "/cache/model"}, False),
        ({"cache": {"claim": {"size": "1Gi"}}, "model": "s3://bucket/model"}, False),
        ({"cache": {"claim": {"size": "1Gi"}}, "engine": {"args": ["--lora-modules", "a=org/lora"]}}, False),
        ({"cache": {"claim": {"size": "1Gi"}}, "engine": {"args": ["--download-dir", "/d"]}}, False),
        ({"cache": {"existingClaim": "w"}, "engine": {"env": [{"name": "VLLM_USE_MODELSCOPE", "value": "1"}]}}, False),
    ],
)
def test_an_engine_asks_the_hub_for_nothing_once_all_was_downloaded(fields: Json, offline: bool) -> None:
    container = engine(**fields)
    assert variables(container).get("HF_HUB_OFFLINE") == ("1" if offline else None)
    assert ("--served-model-name" in container["args"]) == offline, "else it would be called by its path in the cache"


def test_the_hubs_token_has_both_names_that_are_in_use() -> None:
    told = variables(engine(hfTokenSecretRef={"name": "hub", "key": "t"}))

    assert told["HF_TOKEN"] == told["HUGGING_FACE_HUB_TOKEN"] == {"secretKeyRef": {"name": "hub", "key": "t"}}
    assert not {"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"} & variables(engine()).keys()


# Security


def test_the_engine_runs_as_a_user_who_owns_its_volumes() -> None:
    security = rendered()["spec"]["securityContext"]

    assert (security["runAsNonRoot"], security["runAsUser"], security["fsGroup"]) == (True, 2000, 2000)
    assert security["fsGroupChangePolicy"] == "OnRootMismatch"
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert engine()["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def test_the_platform_may_choose_the_user() -> None:
    security = rendered(engine={"runAsUser": -1})["spec"]["securityContext"]

    assert not {"runAsUser", "fsGroup"} & security.keys()
    assert security["runAsNonRoot"] is True


def test_the_engine_learns_nothing_of_the_cluster() -> None:
    spec_ = rendered()["spec"]

    assert spec_["automountServiceAccountToken"] is False
    assert spec_["enableServiceLinks"] is False


# Life and end


def test_a_start_may_take_as_long_as_the_spec_says() -> None:
    container = engine(engine={"startupTimeoutSeconds": 61})
    probe = container["startupProbe"]

    assert probe["httpGet"]["path"] == "/health"
    assert 61 <= probe["periodSeconds"] * probe["failureThreshold"] < 65
    assert variables(container)["VLLM_ENGINE_READY_TIMEOUT_S"] == "61"


def test_liveness_is_more_patient_than_readiness() -> None:
    container = engine(engine={"hangTimeoutSeconds": 99})
    ready, live = container["readinessProbe"], container["livenessProbe"]

    assert ready["httpGet"] == {"path": "/health", "port": 8000, "scheme": "HTTP"}
    assert ready["timeoutSeconds"] == container["startupProbe"]["timeoutSeconds"] == 5
    assert live["exec"]["command"][-3:] == ["live", "--hang-timeout-seconds", "99"]
    assert live["periodSeconds"] == 30
    assert ready["periodSeconds"] * ready["failureThreshold"] < live["periodSeconds"]


@pytest.mark.parametrize("probe", ["startupProbe", "livenessProbe"])
def test_a_sick_engine_is_not_drained(probe: str) -> None:
    container = engine(rollout={"drainTimeoutSeconds": 3600})

    assert container[probe]["terminationGracePeriodSeconds"] == 15


def test_the_end_waits_for_requests_and_a_little_longer() -> None:
    template = rendered(rollout={"drainTimeoutSeconds": 77})
    command = engine_of(template)["lifecycle"]["preStop"]["exec"]["command"]

    assert command[-3:] == ["pre-stop", "--drain-timeout-seconds", "77"]
    assert template["spec"]["terminationGracePeriodSeconds"] == 77 + 15
    assert template["spec"]["shareProcessNamespace"] is True


def test_the_programs_in_the_pod_are_those_of_the_config_map() -> None:
    template = rendered()

    assert volume_at(template, "/etc/dp-vllm") == {"configMap": {"name": "m-engine-life"}}
    assert engine_of(template)["livenessProbe"]["exec"]["command"][2] == "/etc/dp-vllm/engine_life.py"


def test_a_crash_leaves_its_last_words() -> None:
    assert engine()["terminationMessagePolicy"] == "FallbackToLogsOnError"
    assert rendered()["spec"]["restartPolicy"] == "Always"


def test_a_lost_node_keeps_a_pod_for_a_minute() -> None:
    assert [(one["key"], one["tolerationSeconds"]) for one in rendered()["spec"]["tolerations"]] == [
        ("node.kubernetes.io/not-ready", 60),
        ("node.kubernetes.io/unreachable", 60),
    ]


@pytest.mark.parametrize(
    ("given_by_user", "ours"),
    [
        ([{"key": "nvidia.com/gpu", "operator": "Exists"}], ["not-ready", "unreachable"]),
        ([{"key": "node.kubernetes.io/not-ready", "effect": "NoExecute", "tolerationSeconds": 5}], ["unreachable"]),
        ([{"operator": "Exists"}], []),
        ([{"operator": "Exists", "effect": "NoSchedule"}], ["not-ready", "unreachable"]),
    ],
)
def test_the_users_tolerations_stay(given_by_user: list[Json], ours: list[str]) -> None:
    tolerations = rendered(template={"spec": {"tolerations": given_by_user}})["spec"]["tolerations"]

    assert tolerations[: len(given_by_user)] == given_by_user
    assert [one["key"].rpartition("/")[2] for one in tolerations[len(given_by_user) :]] == ours


# The user's template


@pytest.mark.parametrize(
    "fields",
    [
        {"imagePullSecrets": [{"name": "registry"}]},
        {"serviceAccountName": "s3", "automountServiceAccountToken": True},
        {"schedulerName": "kueue", "priorityClassName": "high", "runtimeClassName": "nvidia"},
        {"nodeSelector": {"gpu": "h100"}, "enableServiceLinks": True},
        {"securityContext": {"runAsUser": 0, "runAsNonRoot": False, "supplementalGroups": [7]}},
        {"initContainers": [{"name": "fetch", "image": "busybox"}]},
        {"containers": [{"name": "sidecar", "image": "busybox"}]},
        {"volumes": [{"name": "cache", "nfs": {"server": "s", "path": "/p"}}]},
        {"containers": [{"name": "engine", "command": ["sh", "-c"], "tty": True, "imagePullPolicy": "Always"}]},
        {"containers": [{"name": "engine", "env": [{"name": "HOME", "value": "/root"}]}]},
        {"containers": [{"name": "engine", "ports": [{"name": "kv", "containerPort": 5557}]}]},
        {"containers": [{"name": "engine", "securityContext": {"capabilities": {"add": ["IPC_LOCK"]}}}]},
        {"containers": [{"name": "engine", "lifecycle": {"postStart": {"exec": {"command": ["true"]}}}}]},
        {"containers": [{"name": "engine", "volumeMounts": [{"name": "my-shm", "mountPath": "/dev/shm"}]}]},
    ],
)
def test_a_template_says_what_we_do_not_need(fields: Json) -> None:
    assert contains(rendered(template={"spec": fields})["spec"], fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "shareProcessNamespace": False},
        {"containers": [{"name": "engine", "livenessProbe": {"tcpSocket": {"port": 1}, "failureThreshold": 9}}]},
        {"containers": [{"name": "engine", "readinessProbe": {"exec": {"command": ["true"]}}}]},
        {"containers": [{"name": "engine", "lifecycle": {"preStop": {"sleep": {"seconds": 1}}}}]},
        {"containers": [{"name": "engine", "ports": [{"name": "web", "containerPort": 8000}]}]},
        {"containers": [{"name": "engine", "env": [{"name": "VLLM_HTTP_TIMEOUT_KEEP_ALIVE", "value": "1"}]}]},
        {"volumes": [{"name": "dp-vllm", "emptyDir": {}}]},
    ],
)
def test_a_template_does_not_say_what_makes_it_a_replica(fields: Json) -> None:
    assert rendered(template={"spec": fields}) == rendered()


def test_the_named_cache_wins_over_a_templates() -> None:
    template = rendered(
        cache={"existingClaim": "weights"}, template={"spec": {"volumes": [{"name": "cache", "emptyDir": {}}]}}
    )

    assert volume_at(template, "/cache") == {"persistentVolumeClaim": {"claimName": "weights"}}


def test_fields_of_the_spec_win_over_the_template() -> None:
    both = {"name": "A", "value": "template"}, {"name": "A", "value": "field"}

    container = engine(engine={"env": [both[1]]}, template=with_engine(env=[both[0], {"name": "B", "value": "b"}]))

    assert (variables(container)["A"], variables(container)["B"]) == ("field", "b")


def test_variables_of_ours_can_be_used_in_the_users() -> None:
    defined = [one["name"] for one in engine(engine={"env": [{"name": "A", "value": "$(HF_HOME)/a"}]})["env"]]

    assert defined.index("HF_HOME") < defined.index("A")


def test_the_user_keeps_an_engine_online() -> None:
    env = [{"name": "HF_HUB_OFFLINE", "value": "0"}]

    assert variables(engine(cache={"existingClaim": "w"}, engine={"env": env}))["HF_HUB_OFFLINE"] == "0"


@pytest.mark.parametrize("said", ["true", "false"])
def test_nodes_are_scaled_down_unless_the_user_forbids_it(said: str) -> None:
    key = "cluster-autoscaler.kubernetes.io/safe-to-evict"
    template = {"metadata": {"annotations": {key: said, "a": "b"}}}

    assert rendered()["metadata"]["annotations"][key] == "true"
    assert (
        rendered(template=template)["metadata"]["annotations"] | {key: said, "a": "b"}
        == (rendered(template=template)["metadata"]["annotations"])
    )


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (with_engine(image="x"), "spec.template.spec.containers[engine].image is not allowed; use spec.engine.image"),
        (with_engine(args=[]), "spec.template.spec.containers[engine].args is not allowed; use spec.engine.args"),
        (with_engine(env=[{"name": "VLLM_API_KEY", "value": "k"}]),
         "spec.template.spec.containers[engine].env: VLLM_API_KEY is not allowed; use spec.apiKeySecretRef: "
         "the gateway asks clients for a key, engines have none"),
        ({"spec": {"tolerations": {"key": "x"}}}, "spec.template.spec.tolerations must be a list of mappings"),
        ({"spec": {"containers": [{"image": "x"}]}},
         "spec.template.spec.containers[0]: {'image': 'x'} is not allowed; it must be a mapping with `name`"),
        ({"spec": "x"}, "spec.template.spec: x is not allowed; it must be a mapping"),
    ],
)  # fmt: skip
def test_a_template_that_cannot_be_is_refused_with_the_field(template: Json, said: str) -> None:
    with pytest.raises(BadSpec) as error:
        rendered(template=template)

    assert str(error.value) == said


@pytest.mark.parametrize(
    "template",
    [
        {"spec": None, "metadata": None},
        {"spec": {"containers": None, "volumes": None, "tolerations": None}},
        {"spec": {"containers": [{"name": "engine", "$patch": "delete"}]}},
        {"metadata": {"annotations": None}},
    ],
)
def test_a_replica_remains_one_whatever_is_taken_out(template: Json) -> None:
    container = engine(template=template)

    assert container["args"] == engine()["args"]
    assert pod(rendered(template=template), model(), 1, 0)["metadata"]["labels"][names.MODEL_LABEL] == "m"


# The pod


def test_a_pod_is_the_models_own() -> None:
    made = pod(rendered(), model(), 3, 7)

    assert made["metadata"]["name"] == "m-3-7"
    assert made["metadata"]["namespace"] == "ns"
    assert made["metadata"]["ownerReferences"] == [model().owner]
    assert model().owner["controller"] is True
    assert "blockOwnerDeletion" not in model().owner
    assert made["spec"] == rendered()["spec"]


def test_labels_of_ours_win() -> None:
    mine = {"team": "a", names.MODEL_LABEL: "other", names.REVISION_LABEL: "9"}
    labels = pod(rendered(template={"metadata": {"labels": mine}}), model(), 3, 0)["metadata"]["labels"]

    assert labels == {"team": "a", names.REVISION_LABEL: "3", **model().labels(names.REPLICA)}


@given(random_specs.specs(), st.integers(1, 9))
@settings(max_examples=30)
def test_any_spec_has_a_pod_with_one_engine(fields: Json, revision: int) -> None:
    made = pod(pod_template("m", user_part(model(**fields), SETTINGS)), model(), revision, 0)

    assert [container["name"] for container in made["spec"]["containers"]] == ["engine"]
    assert spec.read(fields).accelerators == sum(
        int(amount) for resource, amount in engine_of(made).get("resources", {}).get("limits", {}).items()
        if resource == spec.read(fields).engine.accelerator
    )  # fmt: skip
    used = {mount["name"] for mount in engine_of(made)["volumeMounts"]}
    assert used == {volume["name"] for volume in made["spec"]["volumes"]}


def test_what_is_rendered_depends_on_nothing_else() -> None:
    assert pod_template("m", part()) == pod_template("m", part())
