"""Pods as a real cluster told of them, and what a person is told instead."""

import asyncio
import re
from typing import Any

import pod_samples
import pytest
from cluster.fixtures import Kubectl
from hypothesis import given
from hypothesis import strategies as st
from kubelet import Kubelet

from dp_vllm.kubernetes_api import ApiError, KubernetesApi
from dp_vllm_operator.causes import failed_download, refusal, trouble
from dp_vllm_operator.replica import Replica

REASON = re.compile(r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$")
"""What the custom resource takes as the reason of a condition."""

LATER = 100.0
"""Seconds after a pod was made: longer than anybody waits for a node."""

TROUBLES = [
    ("amd-gpus-short", "InsufficientGPUs", True, "a replica asks for 1 amd.com/gpu"),
    ("claim-missing", "ClaimNotFound", True, "m-cache"),
    ("claim-unbound", "ClaimNotBound", True, "spec.cache"),
    ("command-missing", "RunContainerError", True, "the image has no vllm"),
    ("config-map-missing", "ConfigMapNotFound", True, "make the ConfigMap settings"),
    ("cpu-short", "InsufficientCPU", True, "1 Insufficient cpu; see spec.engine.resources"),
    ("crash-back-off", "CrashLoopBackOff", True, "exit code 2, 5 restarts: the engine does not know --no-such-flag"),
    ("crash-ended", "CrashLoopBackOff", True, "exit code 2, 5 restarts: the engine does not know --no-such-flag"),
    ("crash-unknown", "CrashLoopBackOff", True, "exit code 1, 5 restarts: ValueError: 7 is too many"),
    ("ends-by-itself", "CrashLoopBackOff", True, "exit code 0"),
    ("evicted-disk-full", "Evicted", False, "spec.cache"),
    ("evicted-volume-full", "Evicted", False, "sizeLimit"),
    ("failed", "Failed", False, "exit code 1: the disk, or /dev/shm, is full"),
    ("gpus-short", "InsufficientGPUs", True, "0/1 nodes are available: 1 Insufficient nvidia.com/gpu;"),
    ("image-name-invalid", "InvalidImageName", True, "must be lowercase; see spec.engine.image"),
    ("image-never-pulled", "ErrImageNeverPull", True, "localhost/no-such:2"),
    ("image-pull-back-off", "ImagePullBackOff", True, "see whether the nodes reach the registry"),
    ("image-pull-error", "ImagePullBackOff", True, "the image localhost/no-such:1 cannot be pulled"),
    ("image-runs-as-root", "CreateContainerConfigError", True, "spec.engine.runAsUser"),
    ("image-user-named", "CreateContainerConfigError", True, "spec.engine.runAsUser"),
    (
        "init-crash",
        "CrashLoopBackOff",
        True,
        "the container prepare ended with exit code 3, 5 restarts: cannot prepare",
    ),
    ("init-image", "ImagePullBackOff", True, "localhost/no-such:1"),
    ("killed-by-probe", "CrashLoopBackOff", True, "was ended by SIGKILL (exit code 137), 6 restarts: the kubelet"),
    ("memory-short", "InsufficientMemory", True, "spec.engine.resources"),
    ("no-node-selected", "Unschedulable", True, "nodeSelector"),
    ("node-affinity", "NodeAffinity", False, "the labels of its node have changed"),
    ("node-lost", "NodeNotReady", False, "node1"),
    ("node-without-cpu", "NodeOutOfResources", False, "cpu, requested: 500000"),
    ("node-without-gpus", "NodeOutOfResources", False, "nvidia.com/gpu, requested: 9"),
    ("out-of-memory", "OOMKilled", True, "spec.engine.resources.limits"),
    ("scheduling-gated", "WaitingForQuota", False, "kueue.x-k8s.io/admission"),
    ("secret-key-missing", "SecretNotFound", True, "the Secret empty needs the key token"),
    ("secret-missing", "SecretNotFound", True, "make the Secret hf"),
    ("segmentation-fault", "CrashLoopBackOff", True, "SIGSEGV"),
    ("sidecar-crash", "CrashLoopBackOff", True, "the container proxy ended with exit code 4"),
    ("succeeded", "Succeeded", False, "exit code 0"),
    ("terminated-by-signal", "CrashLoopBackOff", True, "SIGTERM (exit code 143)"),
]
WELL = ["ready", "crash-runs-again", "not-ready", "init-runs", "mount-missing", "node-lost-deleted"]
"""Ready, on their way, or ending: or their status says nothing of what is wrong."""


def after(replica: Replica, seconds: float = LATER) -> float:
    return replica.created_at + seconds


@pytest.mark.parametrize(("name", "reason", "needs_person", "words"), TROUBLES, ids=[case[0] for case in TROUBLES])
def test_what_is_wrong_with_a_pod(name: str, reason: str, needs_person: bool, words: str) -> None:
    replica = pod_samples.replica(name)
    found = trouble(replica, after(replica))
    assert found is not None
    assert (found.reason, found.needs_person) == (reason, needs_person)
    assert words in found.message
    assert "\n" not in found.message


@pytest.mark.parametrize("name", WELL)
def test_nothing_is_wrong_with_a_pod(name: str) -> None:
    replica = pod_samples.replica(name)
    assert trouble(replica, after(replica)) is None


def test_every_sample_is_expected_to_be_something() -> None:
    assert {*WELL, *(case[0] for case in TROUBLES)} == set(pod_samples.NAMES)


@pytest.mark.parametrize("name", pod_samples.NAMES)
def test_what_only_time_changes_is_whether_a_person_is_needed(name: str) -> None:
    """A message that ticks would be written again and again."""
    replica = pod_samples.replica(name)
    early, late = (trouble(replica, after(replica, seconds)) for seconds in (1.0, 5000.0))
    assert (early and (early.reason, early.message)) == (late and (late.reason, late.message))


@pytest.mark.parametrize("name", ["gpus-short", "cpu-short", "claim-unbound", "no-node-selected"])
def test_a_person_is_asked_only_after_some_patience(name: str) -> None:
    replica = pod_samples.replica(name)
    early, late = (trouble(replica, after(replica, seconds), patience_seconds=30) for seconds in (29, 31))
    assert early is not None and late is not None
    assert (early.needs_person, late.needs_person) == (False, True)


@pytest.mark.parametrize(
    ("largest", "reason", "words"),
    [
        (9, "InsufficientGPUs", "a replica asks for 9 nvidia.com/gpu"),
        (8, "NoNodeLargeEnough", "asks for 9 nvidia.com/gpu (tensorParallelSize * pipelineParallelSize), and no node "
                                 "has more than 8"),
        (0, "NoNodeLargeEnough", "no node has any nvidia.com/gpu"),
        (None, "InsufficientGPUs", "a replica asks for 9 nvidia.com/gpu"),
    ],
)  # fmt: skip
def test_more_gpus_than_any_node_has_need_a_person_at_once(largest: int | None, reason: str, words: str) -> None:
    replica = pod_samples.replica("gpus-short")
    found = trouble(replica, after(replica, 1.0), largest_node=largest)
    assert found is not None and (found.reason, found.needs_person) == (reason, largest in (8, 0))
    assert words in found.message


def crashed(restarts: int, seconds: int, *, exit_code: int = 1, message: str = "", reason: str = "Error") -> Replica:
    """A replica that starts again after a run of so many seconds."""
    body = pod_samples.body("crash-runs-again")
    for condition in body["status"]["conditions"]:
        condition["status"] = "False" if condition["type"] in ("Ready", "ContainersReady") else condition["status"]
    ended = {"exitCode": exit_code, "reason": reason, "message": message, "startedAt": "2026-01-01T00:00:00Z",
             "finishedAt": f"2026-01-01T{seconds // 3600:02}:{seconds // 60 % 60:02}:00Z"}  # fmt: skip
    (engine,) = body["status"]["containerStatuses"]
    engine |= {"ready": False, "started": False, "restartCount": restarts, "lastState": {"terminated": ended}}
    return Replica.of(body)


@pytest.mark.parametrize(
    ("restarts", "seconds", "reason", "needs_person"),
    [
        (1, 60, "Restarted", False),
        (2, 60, "CrashLoopBackOff", True),
        (2, 3600, "Restarted", False),
    ],
)
def test_an_engine_that_runs_again(restarts: int, seconds: int, reason: str, needs_person: bool) -> None:
    """The kubelet says CrashLoopBackOff only between two runs; the reason stays while it runs."""
    replica = crashed(restarts, seconds)
    found = trouble(replica, after(replica), lines=["ValueError: 7 is too many"])
    assert found is not None and (found.reason, found.needs_person) == (reason, needs_person)
    assert "ended with exit code 1" in found.message and "ValueError: 7 is too many" in found.message


@pytest.mark.parametrize(
    ("lines", "message", "words"),
    [
        (["torch.OutOfMemoryError: CUDA out of memory."], "", "lower --gpu-memory-utilization"),
        ([], "INFO x\ntorch.OutOfMemoryError: CUDA out of memory.\n", "lower --gpu-memory-utilization"),
        (["No space left on device"], "ValueError: 7 is too many", "the disk, or /dev/shm, is full"),
        ([], "", "exit code 1, 2 restarts"),
    ],
)
def test_the_cause_is_what_the_engine_said(lines: list[str], message: str, words: str) -> None:
    replica = crashed(2, 60, message=message)
    found = trouble(replica, after(replica), lines=lines)
    assert found is not None and words in found.message


@pytest.mark.parametrize(
    ("exit_code", "words"),
    [(135, "raise spec.engine.shmSize"), (132, "another CPU"), (128, "exit code 128"), (255, "exit code 255")],
)
def test_exit_codes(exit_code: int, words: str) -> None:
    replica = crashed(2, 60, exit_code=exit_code)
    found = trouble(replica, after(replica))
    assert found is not None and words in found.message


@pytest.mark.parametrize(
    ("message", "reason", "words"),
    [
        ('MountVolume.SetUp failed for volume "s" : secret "tls" not found', "SecretNotFound", "make the Secret tls"),
        ('MountVolume.SetUp failed for volume "s" : configmap "c" not found', "ConfigMapNotFound", "ConfigMap c"),
        ('MountVolume.SetUp failed for volume "s" : hostPath type check failed', "FailedMount", "hostPath type check"),
    ],
)
def test_a_pod_without_containers_is_explained_by_its_warnings(message: str, reason: str, words: str) -> None:
    replica = pod_samples.replica("mount-missing")
    warnings = [
        {"reason": "FailedMount", "message": "older", "lastTimestamp": "2026-01-01T00:00:00Z"},
        {"reason": "FailedMount", "message": message, "lastTimestamp": "2026-01-01T00:01:00Z"},
        {"reason": "Unhealthy", "message": "else", "lastTimestamp": "2026-01-01T00:02:00Z"},
    ]
    found = trouble(replica, after(replica), warnings=warnings)
    assert found is not None and found.reason == reason and words in found.message


def test_warnings_of_a_pod_that_has_started_since_are_history() -> None:
    replica = pod_samples.replica("not-ready")
    assert trouble(replica, after(replica), warnings=[{"reason": "FailedMount", "message": "old"}]) is None


@pytest.mark.parametrize(
    ("name", "reason", "needs_person", "words"),
    [
        ("quota-exceeded", "QuotaExceeded", True, "requested: requests.nvidia.com/gpu=4"),
        ("pod-security", "PodSecurityViolation", True, "pod-security.kubernetes.io/enforce: privileged"),
        ("limit-range", "InvalidTemplate", True, "maximum memory usage per Container is 1Gi"),
        ("service-account", "ServiceAccountNotFound", True, "nobody"),
        ("priority-class", "InvalidTemplate", True, "no PriorityClass with name high"),
        ("runtime-class", "InvalidTemplate", True, 'RuntimeClass "nvidia" not found'),
        ("bad-quantity", "InvalidTemplate", True, "quantities must match"),
        ("bad-type", "InvalidTemplate", True, "cannot unmarshal string"),
        ("policy", "AdmissionDenied", True, "images must come from registry.corp"),
        ("webhook-away", "AdmissionUnavailable", False, "pods.corp.example"),
        ("namespace-ends", "NamespaceTerminating", False, "being terminated"),
    ],
)
def test_why_a_pod_is_refused(name: str, reason: str, needs_person: bool, words: str) -> None:
    status, message = pod_samples.refusals()[name]
    found = refusal(status, message)
    assert (found.reason, found.needs_person) == (reason, needs_person)
    assert words in found.message and "m-1-0" not in found.message


@pytest.mark.parametrize(
    ("message", "exit_code", "reason", "needs_person", "words"),
    [
        ("ModelGated: accept its licence", 21, "ModelGated", True, "accept its licence"),
        ("HubUnreachable: it does not answer\n", 10, "HubUnreachable", False, "it does not answer"),
        (
            "Traceback ...\nValueError: 7",
            1,
            "DownloadFailed",
            False,
            "the download ended with exit code 1: Traceback ... ValueError: 7",
        ),
        ("", 137, "DownloadFailed", True, "the download ended with exit code 137"),
    ],
)
def test_why_a_download_failed(message: str, exit_code: int, reason: str, needs_person: bool, words: str) -> None:
    found = failed_download(message, exit_code)
    assert (found.reason, found.needs_person, found.message) == (reason, needs_person, words)


# what no sample shows

_text = st.text(max_size=20)
_state = st.fixed_dictionaries(
    {},
    optional={
        "running": st.fixed_dictionaries({}, optional={"startedAt": st.just("2026-01-01T00:00:00Z")}),
        "waiting": st.fixed_dictionaries({}, optional={"reason": _text, "message": _text}),
        "terminated": st.fixed_dictionaries(
            {"exitCode": st.integers(-5, 300)},
            optional={
                "reason": st.sampled_from(["Error", "OOMKilled", "Completed", "StartError", "?"]),
                "message": _text,
                "startedAt": st.just("2026-01-01T00:00:00Z"),
                "finishedAt": st.just("2026-01-02T00:00:00Z"),
            },
        ),
    },
)
_container = st.fixed_dictionaries(
    {"name": st.sampled_from(["engine", "proxy", ""])},
    optional={
        "ready": st.booleans(),
        "started": st.booleans(),
        "restartCount": st.integers(0, 5),
        "state": _state,
        "lastState": _state,
    },
)
_condition = st.fixed_dictionaries(
    {
        "type": st.sampled_from(["Ready", "PodScheduled", "Initialized", "x"]),
        "status": st.sampled_from(["True", "False", "Unknown"]),
    },
    optional={"reason": _text, "message": _text, "lastTransitionTime": st.sampled_from([None, "2026-01-01T00:00:00Z"])},
)
_status = st.fixed_dictionaries(
    {},
    optional={
        "phase": st.sampled_from(["Pending", "Running", "Failed", "Succeeded", "Unknown"]),
        "reason": _text,
        "message": _text,
        "conditions": st.lists(_condition, max_size=4),
        "containerStatuses": st.lists(_container, max_size=3),
        "initContainerStatuses": st.lists(_container, max_size=3),
    },
)


@given(_status, st.lists(_text, max_size=3), st.sampled_from([None, 0, 8]))
def test_no_status_is_too_odd(status: dict[str, Any], lines: list[str], largest: int | None) -> None:
    body = pod_samples.body("gpus-short") | {"status": status}
    found = trouble(Replica.of(body), 1e9, lines=lines, largest_node=largest)
    assert found is None or REASON.match(found.reason)


@given(st.integers(400, 599), st.text())
def test_no_refusal_is_too_odd(status: int, message: str) -> None:
    assert REASON.match(refusal(status, message).reason)


# the words of the present Kubernetes


def pod(**spec: Any) -> dict[str, Any]:
    engine = {"name": "engine", "image": "localhost/none:1", "resources": {"limits": {"nvidia.com/gpu": 9}}}
    metadata = {"name": "m-1-0", "labels": {"dpvllm.io/revision": "1"}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": [engine], **spec}}


async def test_the_scheduler_still_says_it_so(api: KubernetesApi, namespace: str, kubelet: Kubelet) -> None:
    kubelet.add_node("a", gpus=8)
    path = f"/api/v1/namespaces/{namespace}/pods"
    await api.request("POST", path, body=pod())
    while not (replica := Replica.of(await api.request("GET", f"{path}/m-1-0"))).lacks_accelerators:
        await asyncio.sleep(0.1)
    found = trouble(replica, after(replica))
    assert found is not None and found.reason == "InsufficientGPUs"
    assert re.search(r"Insufficient nvidia.com/gpu.*; a replica asks for 9 nvidia.com/gpu: add nodes", found.message)
    assert "preemption" not in found.message


@pytest.mark.parametrize(
    ("arrange", "spec", "reason"),
    [
        ("create quota gpus --hard=requests.nvidia.com/gpu=2", {}, "QuotaExceeded"),
        ("label namespace {} pod-security.kubernetes.io/enforce=restricted", {}, "PodSecurityViolation"),
        ("get namespace {}", {"serviceAccountName": "nobody"}, "ServiceAccountNotFound"),
        ("get namespace {}", {"priorityClassName": "no-such"}, "InvalidTemplate"),
        ("get namespace {}", {"restartPolicy": "Sometimes"}, "InvalidTemplate"),
        ("get namespace {}", {"containers": "none"}, "InvalidTemplate"),
    ],
    ids=["quota", "pod-security", "service-account", "priority-class", "value", "type"],
)
async def test_the_api_server_still_says_it_so(
    api: KubernetesApi, namespace: str, kubectl: Kubectl, arrange: str, spec: dict[str, Any], reason: str
) -> None:
    kubectl(*arrange.format(namespace).split())
    error = await refused(api, namespace, pod(**spec))
    assert refusal(error.status, error.message).reason == reason


async def refused(api: KubernetesApi, namespace: str, body: dict[str, Any]) -> ApiError:
    """Why it does not take the pod. A quota takes a moment until it is known."""
    while True:
        try:
            await api.request("POST", f"/api/v1/namespaces/{namespace}/pods", query={"dryRun": "All"}, body=body)
        except ApiError as error:
            if "status unknown for quota" not in error.message:
                return error
        await asyncio.sleep(0.1)
