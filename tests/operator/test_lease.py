"""The Lease on a real API server: real processes that are killed, frozen and cut off compete for it."""

import asyncio
import contextlib
import functools
import json
import signal
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import lease_server
import programs
import pytest
import yaml
from cluster.given import AnyCluster
from lease_candidate import TERMS
from ports import free_port

from dp_vllm.kubernetes_api import ApiError, KubernetesApi
from dp_vllm_operator import lease
from dp_vllm_operator.neighbours import Neighbours

TESTS = Path(programs.__file__).parent

SLACK_SECONDS = 2.0
"""For a busy machine."""

CARRY = """
import asyncio, socket, sys
from cluster.relay import relay
asyncio.run(relay(socket.create_server(("127.0.0.1", int(sys.argv[1]))), sys.argv[2], int(sys.argv[3])))
"""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A process that competes."""

    program: programs.Program

    def at(self, event: str) -> float | None:
        """When it was said, None if it was not."""
        said = [json.loads(line) for line in self.program.output().splitlines() if line.startswith("{")]
        return next((float(each["at"]) for each in said if each["event"] == event), None)

    def wait_for(self, event: str) -> float:
        """When it was said, at last."""
        programs.wait_until(lambda: self.at(event) is not None, f"{event}\n{self.program.output()}")
        when = self.at(event)
        assert when is not None
        return when

    def wait_until_it_waits(self) -> None:
        programs.wait_until(lambda: "waits for the Lease" in self.program.output(), self.program.output())


class Candidates:
    """Starts them in one namespace, and remembers all."""

    def __init__(self, stack: contextlib.ExitStack, folder: Path, namespace: str, kubeconfig: Path) -> None:
        self._stack = stack
        self._folder = folder
        self._namespace = namespace
        self._kubeconfig = kubeconfig
        self._numbers = count()

    def start(self, kubeconfig: Path | None = None) -> Candidate:
        name = f"operator-{next(self._numbers)}"
        argv = [sys.executable, str(TESTS / "lease_candidate.py"), self._namespace, name]
        env = {"KUBECONFIG": str(kubeconfig or self._kubeconfig)}
        run = programs.running(argv, self._folder / f"{name}.log", env=env)
        candidate = Candidate(self._stack.enter_context(run))
        candidate.wait_for("started")
        return candidate


@pytest.fixture
def candidates(control_plane: AnyCluster, namespace: str, tmp_path: Path) -> Iterator[Candidates]:
    with contextlib.ExitStack() as stack:
        yield Candidates(stack, tmp_path, namespace, control_plane.kubeconfig)


@dataclass(frozen=True, slots=True)
class Line:
    """A connection to the API server that can be cut."""

    program: programs.Program
    kubeconfig: Path


@pytest.fixture
def line(control_plane: AnyCluster, tmp_path: Path) -> Iterator[Line]:
    settings = yaml.safe_load(control_plane.kubeconfig.read_text())
    cluster = settings["clusters"][0]["cluster"]
    server, port = urlsplit(cluster["server"]), free_port()
    cluster["server"] = f"https://127.0.0.1:{port}"
    kubeconfig = tmp_path / "kubeconfig-of-the-line"
    kubeconfig.write_text(yaml.safe_dump(settings))
    argv = [sys.executable, "-c", CARRY, str(port), str(server.hostname), str(server.port)]
    env = {"PYTHONPATH": str(TESTS)}
    with programs.running(argv, tmp_path / "line.log", env=env, ready=lambda: listens(port)) as program:
        yield Line(program, kubeconfig)


def listens(port: int) -> bool:
    with contextlib.closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_the_follower_takes_over_when_the_holder_is_killed(candidates: Candidates) -> None:
    first = candidates.start()
    first.wait_for("held")
    second = candidates.start()
    second.wait_until_it_waits()
    killed = time.monotonic()
    first.program.signal(signal.SIGKILL)
    waited = second.wait_for("held") - killed
    assert TERMS.duration_seconds - TERMS.retry_seconds - SLACK_SECONDS < waited
    assert waited < TERMS.duration_seconds + TERMS.retry_seconds + SLACK_SECONDS


def test_the_follower_need_not_wait_when_the_holder_ends_in_good_order(candidates: Candidates) -> None:
    first = candidates.start()
    first.wait_for("held")
    second = candidates.start()
    second.wait_until_it_waits()
    first.program.signal(signal.SIGTERM)
    released = first.wait_for("released")
    assert second.wait_for("held") - released < TERMS.retry_seconds + SLACK_SECONDS
    ended = first.at("ended")
    held = second.at("held")
    assert ended is not None and held is not None and ended <= held


@pytest.mark.parametrize("cut", [signal.SIGSTOP, signal.SIGKILL], ids=["no answer", "connection refused"])
def test_a_holder_that_is_cut_off_gives_up_before_another_takes_over(
    candidates: Candidates, line: Line, cut: signal.Signals
) -> None:
    first = candidates.start(line.kubeconfig)
    first.wait_for("held")
    second = candidates.start()
    second.wait_until_it_waits()
    line.program.signal(cut)
    held = second.wait_for("held")
    lost = first.at("lost")
    assert lost is not None and lost < held
    assert first.program.wait() == 3


def test_a_holder_that_was_frozen_knows_at_once_that_it_has_lost(candidates: Candidates) -> None:
    first = candidates.start()
    first.wait_for("held")
    second = candidates.start()
    first.program.signal(signal.SIGSTOP)
    second.wait_for("held")
    thawed = time.monotonic()
    first.program.signal(signal.SIGCONT)
    assert first.wait_for("lost") - thawed < SLACK_SECONDS
    assert second.at("lost") is None


def test_two_never_hold_it_while_holders_come_and_go(candidates: Candidates, line: Line) -> None:
    every = [candidates.start(), candidates.start(line.kubeconfig), candidates.start()]
    over: list[tuple[float, float]] = []
    for end in (signal.SIGTERM, signal.SIGKILL, signal.SIGTERM):
        programs.wait_until(lambda: any(each.at("held") for each in every), "somebody holds it")
        (holder,) = (each for each in every if each.at("held"))
        every.remove(holder)
        began, ended = holder.wait_for("held"), time.monotonic()
        holder.program.signal(end)
        if end == signal.SIGTERM:
            ended = holder.wait_for("ended")
        over.append((began, ended))
    assert all(ended <= began for (_, ended), (began, _) in pairwise(over))


# in this process

RIVAL_SECONDS = 3


class Rival:
    """Another holder, written as raw requests: its clock is wrong."""

    def __init__(self, api: KubernetesApi, namespace: str) -> None:
        self._api = api
        self._collection = f"{lease.GROUP}/namespaces/{namespace}/leases"
        self._minutes = count()

    def spec(self, year: int) -> dict[str, Any]:
        stamp = f"{year}-01-01T00:{next(self._minutes):02}:00.000000Z"
        return {
            "holderIdentity": "rival",
            "leaseDurationSeconds": RIVAL_SECONDS,
            "acquireTime": stamp,
            "renewTime": stamp,
        }

    async def take(self, year: int) -> None:
        body = {"metadata": {"name": lease.NAME}, "spec": self.spec(year)}
        await self._api.request("POST", self._collection, body=body)

    async def renew(self, year: int) -> None:
        path = f"{self._collection}/{lease.NAME}"
        await self._api.request(
            "PATCH", path, body={"spec": self.spec(year)}, content_type="application/merge-patch+json"
        )


@pytest.mark.parametrize("year", [2001, 2101], ids=["behind", "ahead"])
async def test_wrong_clocks_do_not_matter(api: KubernetesApi, namespace: str, year: int) -> None:
    rival = Rival(api, namespace)
    await rival.take(year)
    taken = asyncio.Event()
    competing = asyncio.create_task(compete(api, namespace, taken))
    for _ in range(4):
        renewed = time.monotonic()
        await rival.renew(year)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(taken.wait(), 1.0)
    await asyncio.wait_for(taken.wait(), 20)
    waited = time.monotonic() - renewed
    assert RIVAL_SECONDS <= waited < RIVAL_SECONDS + TERMS.retry_seconds + SLACK_SECONDS
    competing.cancel()
    await asyncio.wait([competing])


async def compete(api: KubernetesApi, namespace: str, taken: asyncio.Event) -> None:
    async with lease.hold(api, [namespace], "we", terms=TERMS) as lost:
        taken.set()
        await lost.wait()


async def test_the_record_is_one_that_kubernetes_tools_understand(api: KubernetesApi, namespace: str) -> None:
    path = f"{lease.GROUP}/namespaces/{namespace}/leases/{lease.NAME}"
    for number, identity in enumerate(["one", "one", "two"]):
        async with lease.hold(api, [namespace], identity, terms=TERMS):
            record = (await api.request("GET", path))["spec"]
            assert record["holderIdentity"] == identity
            assert record["leaseDurationSeconds"] == TERMS.duration_seconds
            assert record["leaseTransitions"] == number
            assert record["acquireTime"] == record["renewTime"]
        assert (await api.request("GET", path))["spec"]["holderIdentity"] == ""


async def test_a_lease_that_somebody_made_empty_is_taken(api: KubernetesApi, namespace: str) -> None:
    body = {"metadata": {"name": lease.NAME, "labels": {"whose": "theirs"}}}
    collection = f"{lease.GROUP}/namespaces/{namespace}/leases"
    await api.request("POST", collection, body=body)
    async with lease.hold(api, [namespace], "we", terms=TERMS):
        taken = await api.request("GET", f"{collection}/{lease.NAME}")
    assert taken["spec"]["holderIdentity"] == "we"
    assert taken["metadata"]["labels"] == {"whose": "theirs"}


async def test_a_namespace_with_an_operator_of_its_own_is_found(api: KubernetesApi, namespace: str) -> None:
    neighbours = Neighbours(api, "kube-system")
    await neighbours.look()
    assert namespace not in neighbours.left_out
    async with lease.hold(api, [namespace], "theirs", terms=TERMS):
        await neighbours.look()
        assert namespace in neighbours.left_out
    await neighbours.look()
    assert namespace not in neighbours.left_out


@pytest.mark.parametrize("server", ["real", "in memory"])
async def test_the_rules_that_the_lease_relies_on(
    server: str, control_plane: AnyCluster, api: KubernetesApi, namespace: str
) -> None:
    """The API server in memory, before which the election is simulated, keeps the real one's."""
    asked: lease.Api = api if server == "real" else lease_server.Line(lease_server.LeaseServer())
    collection = f"{lease.GROUP}/namespaces/{namespace}/leases"
    request = functools.partial(asked.request, seconds=5)

    async def refusal(method: str, path: str, body: object = None) -> str:
        with pytest.raises(ApiError) as caught:
            await request(method, path, body=body)
        return f"{caught.value.status} {caught.value.reason}"

    path = f"{collection}/{lease.NAME}"
    body = {"metadata": {"name": lease.NAME}, "spec": {"holderIdentity": "x"}}
    assert await refusal("GET", path) == "404 NotFound"
    first = await request("POST", collection, body=body)
    assert await refusal("POST", collection, body) == "409 AlreadyExists"
    second = await request("PUT", path, body={**first, "spec": {"holderIdentity": "y"}})
    assert await request("GET", path) == second
    assert await refusal("PUT", path, first) == "409 Conflict"
    await request("DELETE", path)
    assert await refusal("PUT", path, second) == "409 Conflict"
    await request("POST", collection, body=body)
    assert await refusal("PUT", path, second) == "409 Conflict"
