"""A DPModel of the real vLLM on real nodes: this machine's installation and a tiny model, mounted into its pods."""

import asyncio
import contextlib
import ctypes
import json
import re
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import openai
import pytest
import real_engine
from cluster import Cluster, ClusterError, binaries
from cluster.fixtures import Kubectl
from cluster.reach import reached
from docker.images import tag
from programs import Program, running, wait_until

from dp_vllm.engine.log import stage
from dp_vllm_operator.progress import LOADING_PHASES

pytestmark = [pytest.mark.e2e, pytest.mark.vllm, pytest.mark.own_cluster, pytest.mark.timeout(1500)]

NAME: Final = "real"
CLIENTS: Final = 2
TOKENS: Final = 30
START_SECONDS: Final = 600
DRAIN_SECONDS: Final = 60
END_SECONDS: Final = 15

OF_MODEL: Final = f"--selector=dpvllm.io/model={NAME}"
OF_REPLICAS: Final = f"{OF_MODEL},app.kubernetes.io/component=replica"
KINDS: Final = (
    "pods,deployments,services,configmaps,networkpolicies,poddisruptionbudgets,rolebindings,controllerrevisions"
)

_PYTHON: Final = "/opt/python"
_INSTALLED: Final = "/opt/vllm"
"""Where both are in a pod. Not where they are on the node: root's home is closed to others."""
_VERSION: Final = f"python{sys.version_info.major}.{sys.version_info.minor}"
_NUMA: Final = "libnuma.so.1"


def numa() -> Path:
    """The one library that vLLM's CPU build expects of its system and a slim image lacks."""
    ctypes.CDLL(_NUMA)
    return Path(re.findall(r"/\S+libnuma\S+", Path("/proc/self/maps").read_text())[0])


def manifest(*args: str) -> str:
    """A DPModel whose image has no vLLM: its template mounts one and says how it is called."""
    places = {_PYTHON: Path(sys.base_prefix), _INSTALLED: real_engine.directory(), f"/usr/lib/{_NUMA}": numa()}
    variables = real_engine.VARIABLES | {
        "PYTHONPATH": f"{_INSTALLED}/venv/lib/{_VERSION}/site-packages",
        "LD_LIBRARY_PATH": f"{_PYTHON}/lib",
    }
    container = {
        "name": "engine",
        "command": [f"{_PYTHON}/bin/{_VERSION}", f"{_INSTALLED}/venv/bin/vllm", "serve"],
        "volumeMounts": [
            {"name": f"mounted-{number}", "mountPath": at, "readOnly": True} for number, at in enumerate(places)
        ],
    }
    volumes = [
        {"name": f"mounted-{number}", "hostPath": {"path": str(there)}} for number, there in enumerate(places.values())
    ]
    spec = {
        "model": f"{_INSTALLED}/model",
        "servedModelName": real_engine.NAME,
        "replicas": 2,
        "engine": {
            "image": tag("sim"),
            "accelerator": "none",
            "args": [*real_engine.SMALL, *args],
            "env": [{"name": name, "value": value} for name, value in variables.items()],
            "startupTimeoutSeconds": START_SECONDS,
            "hangTimeoutSeconds": START_SECONDS,
        },
        "rollout": {"drainTimeoutSeconds": DRAIN_SECONDS},
        "template": {"spec": {"containers": [container], "volumes": volumes}},
    }
    return json.dumps({"apiVersion": "dpvllm.io/v1alpha1", "kind": "DPModel", "metadata": {"name": NAME}, "spec": spec})


async def test_the_real_engine_loads_streams_rolls_scales_and_ends(
    cluster: Cluster, operator: None, namespace: str, kubectl: Kubectl, tmp_path: Path
) -> None:
    kubectl("apply", "--filename=-", stdin=manifest())
    with watched(cluster, namespace, tmp_path / "dpm.txt") as rows:
        settled(kubectl)
        wait_until(lambda: "AllReplicasReady" in rows.output(), "it is told that all replicas are ready")
    # The operator reads a log every 15 s: how fast the machine is decides which phases it sees.
    shown = rows.output()
    assert "its engine starts" in shown or set(shown.split()) & set(LOADING_PHASES), f"no start is shown:\n{shown}"
    first = replicas(kubectl)
    for pod in first:
        lines = kubectl("logs", pod).splitlines()
        assert {found.phase for line in lines if (found := stage([line]))} >= {"Loading", "WarmingUp"}, lines

    def roll() -> set[str]:
        kubectl("apply", "--filename=-", stdin=manifest("--max-num-seqs", "8"))
        settled(kubectl)
        gone(kubectl, first)
        return replicas(kubectl)

    def scale_down() -> None:
        kubectl("scale", f"dpm/{NAME}", "--replicas=1")
        settled(kubectl)
        wait_until(lambda: len(replicas(kubectl)) == 1, "one of two is gone", END_SECONDS + DRAIN_SECONDS)

    with reached(cluster, namespace, f"service/{NAME}", 80, image=tag("sim")) as url:
        async with loaded(url) as answers:
            second = await asyncio.to_thread(roll)
            await asyncio.to_thread(scale_down)
    broken = [answer for answer in answers if answer.broken]
    assert not broken, f"{len(broken)} of {len(answers)} failed, the first: {broken[0]}"
    assert len(first) == len(second) == 2 and not first & second
    assert len({answer.replica for answer in answers}) >= 3

    (idle,) = replicas(kubectl)
    began = time.monotonic()
    kubectl("delete", idle, "--timeout=60s")
    assert time.monotonic() - began < END_SECONDS
    wait_until(lambda: bool(replicas(kubectl)), "another takes its place", END_SECONDS)
    (loading,) = replicas(kubectl)
    kubectl("wait", loading, "--for=jsonpath={.status.phase}=Running", "--timeout=60s")
    began = time.monotonic()
    kubectl("delete", f"dpm/{NAME}")
    gone(kubectl, {loading})
    assert time.monotonic() - began < END_SECONDS
    wait_until(lambda: not kubectl("get", KINDS, OF_MODEL, "--output=name"), "nothing is left", 60)


def settled(kubectl: Kubectl) -> None:
    """Wait until what was asked for last is done."""
    for condition in ("Progressing=False", "Ready"):
        try:
            kubectl("wait", f"dpm/{NAME}", f"--for=condition={condition}", f"--timeout={START_SECONDS}s")
        except ClusterError:
            print(kubectl("get", "dpm,pods", "--output=wide"), kubectl("describe", "dpm"))
            print(kubectl("logs", "--prefix", "--tail=100", OF_REPLICAS))
            raise


def replicas(kubectl: Kubectl) -> set[str]:
    """The model's replica pods, those that end too."""
    return set(kubectl("get", "pods", OF_REPLICAS, "--output=name").split())


def gone(kubectl: Kubectl, pods: set[str]) -> None:
    """Wait until there are no such pods any more."""
    kubectl("wait", *pods, "--for=delete", f"--timeout={DRAIN_SECONDS + END_SECONDS}s")


@contextlib.contextmanager
def watched(cluster: Cluster, namespace: str, log: Path) -> Iterator[Program]:
    """Every row that somebody sees who watches the model meanwhile."""
    program = binaries.find("kubectl")
    assert program
    words = ("get", f"dpm/{NAME}", "--output=wide", "--watch")
    with running([program, f"--kubeconfig={cluster.kubeconfig}", f"--namespace={namespace}", *words], log) as kubectl:
        yield kubectl


@dataclass(frozen=True, slots=True)
class Answer:
    """How a request for a stream was answered."""

    replica: str = ""
    broken: str = ""
    """What is wrong with it."""


@contextlib.asynccontextmanager
async def loaded(url: str) -> AsyncIterator[list[Answer]]:
    """A few clients ask without pause; each finishes its last request."""
    answers: list[Answer] = []
    stopped = asyncio.Event()

    async def ask(client: openai.AsyncOpenAI) -> None:
        while not stopped.is_set():
            answers.append(await streamed(client))

    async with (
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", timeout=120, max_retries=0) as client,
        asyncio.TaskGroup() as tasks,
    ):
        for _ in range(CLIENTS):
            tasks.create_task(ask(client))
        try:
            yield answers
        finally:
            stopped.set()


async def streamed(client: openai.AsyncOpenAI) -> Answer:
    """Ask for an answer of so many tokens and read it to its end."""
    try:
        response = await client.chat.completions.with_raw_response.create(
            model=real_engine.NAME,
            messages=[{"role": "user", "content": "Hello"}],
            max_tokens=TOKENS,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"ignore_eos": True},
        )
        parts = [part async for part in response.parse()]
    except openai.OpenAIError as error:
        return Answer(broken=repr(error))
    usage = parts[-1].usage if parts else None
    whole = usage is not None and usage.completion_tokens == TOKENS
    return Answer(response.headers["x-dp-vllm-replica"], "" if whole else f"it ended early: {parts}")
