"""Gateways before the pods of a real API server, under load: no request fails, whatever becomes of pods and API server.

The pods are objects alone: a test says what a kubelet would, and simulated engines answer at their addresses.
"""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import programs
import psutil
import pytest
import pytest_asyncio
import watched
import wire
from balancer import balancing
from cluster import Cluster
from cluster.api import connected
from cluster.given import AnyCluster
from end_to_end.load import Load, load
from replica_pods import PORT, address, labels, running

from dp_vllm.kubernetes_api import MERGE, KubernetesApi

pytestmark = pytest.mark.timeout(150)

KEPT = "test.dpvllm.io/kept"
"""A finalizer: what is deleted stays, Terminating, until the test says that it has ended."""

CLIENTS = 3
"""Of each gateway."""

AT_ONCE = ("--sim-load-seconds", "0.01")


@dataclass(frozen=True, slots=True)
class Pods:
    """The replicas of the model `m`."""

    api: KubernetesApi
    path: str
    log_dir: Path
    engines: contextlib.ExitStack

    async def make(self, name: str) -> str:
        """A pod that is ready, with an engine; the engine's address."""
        host = address()
        engine = programs.sim(self.log_dir, *AT_ONCE, host=host, port=PORT)
        await asyncio.to_thread(self.engines.enter_context, engine)
        metadata = {"name": name, "labels": labels("m"), "finalizers": [KEPT]}
        spec = {"containers": [{"name": "engine", "image": "none"}]}
        await self.api.request("POST", self.path, body={"metadata": metadata, "spec": spec})
        await self.say(name, running(host))
        return host

    async def say(self, name: str, status: dict[str, Any]) -> None:
        """What a kubelet says of the pod."""
        path = f"{self.path}/{name}/status"
        await self.api.request("PATCH", path, body={"status": status}, content_type=MERGE)

    async def delete(self, *names: str) -> None:
        """From now on they are Terminating."""
        for name in names:
            await self.api.request("DELETE", f"{self.path}/{name}")

    async def end(self, *names: str) -> None:
        """Their containers have ended."""
        for name in names:
            kept = {"metadata": {"finalizers": None}}
            await self.api.request("PATCH", f"{self.path}/{name}", body=kept, content_type=MERGE)


@contextlib.asynccontextmanager
async def pods_in(api: KubernetesApi, namespace: str, log_dir: Path) -> AsyncIterator[Pods]:
    """No pods yet; none is left."""
    with contextlib.ExitStack() as engines:
        pods = Pods(api, f"/api/v1/namespaces/{namespace}/pods", log_dir, engines)
        try:
            yield pods
        finally:
            left = await api.request("GET", pods.path)
            await pods.end(*(pod["metadata"]["name"] for pod in left["items"]))


@pytest_asyncio.fixture
async def pods(api: KubernetesApi, namespace: str, tmp_path: Path) -> AsyncIterator[Pods]:
    async with pods_in(api, namespace, tmp_path) as pods:
        yield pods


@contextlib.contextmanager
def gateway(kubeconfig: Path, namespace: str, directory: Path, *flags: str) -> Iterator[watched.Gateway]:
    """A gateway as it runs on somebody's own machine."""
    directory.mkdir(exist_ok=True)
    socket = directory / "admin.sock"
    model = ("--kubernetes-model", "m", "--namespace", namespace, "--admin-socket", str(socket))
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("KUBECONFIG", str(kubeconfig))
        environment.delenv("KUBERNETES_SERVICE_HOST", raising=False)
        with programs.gateway(directory, *model, *flags) as program:
            yield watched.Gateway(program, f"unix:{socket}")


def of(gateway: watched.Gateway, replica: str) -> dict[str, Any]:
    """What a gateway knows of a replica."""
    return dict(gateway.state()["replicas"][replica])


def in_flight(gateway: watched.Gateway) -> int:
    """Requests that a gateway works on."""
    return int(gateway.state()["in_flight"])


def uses(gateway: watched.Gateway) -> list[str]:
    """The replicas that get requests."""
    return [name for name, replica in gateway.state()["replicas"].items() if replica["available"]]


async def until(condition: Callable[[], bool], what: str) -> None:
    """Wait until the condition holds, while the load goes on."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(programs.START_SECONDS):
            while not condition():
                await asyncio.sleep(0.02)
    assert condition(), what


async def use(gateways: list[watched.Gateway], *names: str) -> None:
    """Wait until all gateways use exactly these."""
    await until(
        lambda: all(uses(each) == list(names) for each in gateways), f"{names} are used, not {[*map(uses, gateways)]}"
    )


@contextlib.asynccontextmanager
async def loaded(*urls: str) -> AsyncIterator[list[Load]]:
    """A constant load on each, of which nothing fails."""
    async with contextlib.AsyncExitStack() as stack:
        loads = [await stack.enter_async_context(load(url, CLIENTS)) for url in urls]
        yield loads
    chats = [chat for load in loads for chat in load.chats]
    assert len(chats) > 30
    assert not [chat for chat in chats if not chat.is_whole]


async def served_by(loads: list[Load], *names: str) -> None:
    """From now on these answer, each some, and no others."""
    for each in loads:
        await each.until(2 * CLIENTS)  # what was under way
        before = len(each.chats)
        await each.until(16)
        assert {chat.replica for chat in each.chats[before:]} == set(names)


@pytest.mark.exhaustive
async def test_nothing_fails_while_pods_come_and_go(
    control_plane: AnyCluster, namespace: str, pods: Pods, tmp_path: Path
) -> None:
    hosts = [await pods.make(f"m-1-{number}") for number in range(2)]
    kubeconfig = control_plane.kubeconfig
    with (
        gateway(kubeconfig, namespace, tmp_path / "one") as one,
        gateway(kubeconfig, namespace, tmp_path / "other") as other,
    ):
        gateways = [one, other]
        async with loaded(one.url, other.url) as loads:
            await use(gateways, "m-1-0", "m-1-1")
            await served_by(loads, "m-1-0", "m-1-1")

            await pods.say("m-1-0", running(hosts[0], ready=False))
            await use(gateways, "m-1-1")
            await served_by(loads, "m-1-1")
            await pods.say("m-1-1", running(hosts[1], ready=False))
            await use(gateways, "m-1-0", "m-1-1")
            await served_by(loads, "m-1-0", "m-1-1")
            assert one.scrape().value("dp_vllm_replica_used_unready") == 2
            for name, host in zip(("m-1-0", "m-1-1"), hosts, strict=True):
                await pods.say(name, running(host))
            await until(lambda: one.scrape().value("dp_vllm_replica_used_unready") == 0, "all are ready again")

            await pods.make("m-2-0")
            await use(gateways, "m-1-0", "m-1-1", "m-2-0")
            await pods.delete("m-1-0", "m-1-1")
            await use(gateways, "m-2-0")
            await served_by(loads, "m-2-0")
            old = [(each, name) for each in gateways for name in ("m-1-0", "m-1-1")]
            await until(lambda: not any(of(each, name)["in_flight"] for each, name in old), "their work has ended")
            await pods.end("m-1-0", "m-1-1")
            await until(lambda: all(len(each.state()["replicas"]) == 1 for each in gateways), "they are forgotten")


async def test_a_gateway_that_ends_moves_its_clients_to_the_other(
    control_plane: AnyCluster, namespace: str, pods: Pods, tmp_path: Path
) -> None:
    await pods.make("m-1-0")
    kubeconfig, flags = control_plane.kubeconfig, ("--shutdown-timeout", "20")
    with (
        gateway(kubeconfig, namespace, tmp_path / "one", *flags) as one,
        gateway(kubeconfig, namespace, tmp_path / "other", *flags) as other,
    ):
        async with balancing(one.url, other.url) as service, loaded(service.url) as (chats,):
            await chats.until(30)
            service.targets.remove(one.url)  # as happens before SIGTERM, while preStop waits
            await chats.until(10)
            await asyncio.to_thread(
                programs.wait_until, lambda: in_flight(one) > 0, "clients that keep their connections send something"
            )
            one.program.signal(signal.SIGTERM)
            assert await asyncio.to_thread(one.program.wait) == 0
            await chats.until(30)


@pytest.mark.exhaustive
@pytest.mark.own_cluster
async def test_what_is_known_outlasts_the_api_server(tmp_path: Path) -> None:
    with Cluster() as cluster, gateway(cluster.kubeconfig, "default", tmp_path / "gateway") as program:
        async with connected(cluster.kubeconfig) as api, pods_in(api, "default", tmp_path) as pods:
            for name in ("m-1-0", "m-1-1"):
                await pods.make(name)
            async with loaded(program.url) as loads:
                await use([program], "m-1-0", "m-1-1")
                machine = cluster.control_plane.host
                server = psutil.Process(machine.find("kube-apiserver"))
                command = server.cmdline()
                server.kill()
                machine.end("kube-apiserver")
                await until(lambda: program.state()["source"]["problem"] != "", "it is missed")
                await served_by(loads, "m-1-0", "m-1-1")
                assert wire.ask(program.url, "GET", "/ready").status == 200
                age = program.scrape().value("dp_vllm_endpoints_age_seconds")
                await until(lambda: program.scrape().value("dp_vllm_endpoints_age_seconds") > age, "it is not heard")

                machine.spawn("kube-apiserver", command)
                await asyncio.to_thread(cluster.control_plane.wait_ready, cluster.control_plane.server)
                await until(lambda: program.state()["source"]["problem"] == "", "it is heard again")
                await pods.delete("m-1-0")
                await use([program], "m-1-1")
                await served_by(loads, "m-1-1")
