"""Which pods the gateway knows, whatever the API server does: forget, fall silent, fail, vanish, lie."""

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import programs
import pytest
from replica_pods import gateway_pod, pod, running
from scripted import END, Asked, Peer, Script, chunk, head, saying, then_closing, whole
from scripted_api import ApiServer, api_server, query, refusing

from dp_vllm.endpoints import EndpointSet, State
from dp_vllm_gateway.discovery.contact import Contact
from dp_vllm_gateway.discovery.kubernetes import PAUSE_MOST_SECONDS, Replicas, namespace_of_login, pause

READY = running("10.0.0.1")


@dataclass(frozen=True, slots=True)
class Watched:
    """What has been found so far."""

    sets: list[EndpointSet]
    contact: Contact

    @property
    def names(self) -> list[str]:
        """The replicas, as they are known now."""
        return [endpoint.name for endpoint in self.sets[-1].endpoints] if self.sets else []


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    with api_server(pod("m-1-0", READY), pod("m-1-1", running("10.0.0.2"))) as server:
        monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig(tmp_path / "kubeconfig")))
        monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
        yield server


@contextlib.asynccontextmanager
async def watching(**settings: Any) -> AsyncIterator[Watched]:
    """Follow the pods until the block ends."""
    watched = Watched([], Contact())
    clock = asyncio.get_running_loop().time
    settings = {"pause_seconds": 0.02, **settings}
    replicas = Replicas("m", "ours", watched.contact, clock=clock, rng=random.Random(1), **settings)

    async def follow() -> None:
        async for endpoints in replicas.watch():
            watched.sets.append(endpoints)

    following = asyncio.create_task(follow())
    yield watched
    assert not following.done(), following
    following.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await following


async def until(condition: Callable[[], object], what: str) -> None:
    """Wait until the condition holds."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(programs.START_SECONDS):
            while not condition():
                await asyncio.sleep(0.01)
    assert condition(), what


async def test_pods_are_listed_then_each_change_is_told(server: ApiServer) -> None:
    async with watching() as watched:
        await until(lambda: watched.names == ["m-1-0", "m-1-1"], "both are listed")
        server.put(pod("m-1-2", {"phase": "Pending"}))
        await until(lambda: watched.names == ["m-1-0", "m-1-1", "m-1-2"], "a third is added")
        server.put(pod("m-1-0", READY, deleted=True))
        await until(lambda: watched.sets[-1].endpoints[0].state is State.DRAINING, "the first is deleted")
        server.delete("m-1-0")
        await until(lambda: watched.names == ["m-1-1", "m-1-2"], "it is gone")
        taken = pod("m-1-1", READY)
        taken["metadata"]["ownerReferences"] = [{"kind": "ReplicaSet", "name": "a-copy", "controller": True}]
        server.put(taken)
        await until(lambda: watched.names == ["m-1-2"], "one has become another controller's")
        assert [each.generation for each in watched.sets] == [1, 2, 3, 4, 5]
        assert (server.lists, server.watches) == (1, 1)


async def test_what_is_asked_is_the_models_replicas_alone(server: ApiServer) -> None:
    async with watching():
        await until(lambda: server.watches, "it watches")
    listed, watched = server.asked
    selector = "dpvllm.io/model=m,app.kubernetes.io/component=replica"
    assert listed.target.startswith("/api/v1/namespaces/ours/pods?")
    assert query(listed) == {"labelSelector": selector}, "no version: the list is as fresh as can be"
    asked = query(watched)
    assert 300 <= int(asked.pop("timeoutSeconds")) <= 600
    assert asked == {
        "labelSelector": selector,
        "watch": "1",
        "allowWatchBookmarks": "true",
        "resourceVersion": "102",
    }


async def test_the_models_gateways_are_told_apart_from_its_replicas(server: ApiServer) -> None:
    told: list[frozenset[str]] = []
    server.put(gateway_pod("m-gateway-0", "10.0.1.1"))
    async with watching(on_gateways=told.append) as watched:
        await until(lambda: watched.names, "all are listed")
        assert query(server.asked[0])["labelSelector"] == (
            "dpvllm.io/model=m,app.kubernetes.io/component in (replica,gateway)"
        )
        assert watched.names == ["m-1-0", "m-1-1"] and told == [{"10.0.1.1"}]
        server.put(gateway_pod("m-gateway-1", ""), gateway_pod("m-gateway-2", "no address"))
        server.put(gateway_pod("m-gateway-1", "10.0.1.2"))
        await until(lambda: told[-1] == {"10.0.1.1", "10.0.1.2"}, "another has an address")
        server.delete("m-gateway-0")
        await until(lambda: told[-1] == {"10.0.1.2"}, "one is gone")
        server.put(pod("m-1-2", running("10.0.1.2"), created="2026-01-02T00:00:00Z"))
        await until(lambda: told[-1] == frozenset(), "its address is another pod's")
        assert len(told) == 4 and watched.names == ["m-1-0", "m-1-1", "m-1-2"]


async def test_bookmarks_and_changes_that_say_nothing_new_are_only_signs_of_life(server: ApiServer) -> None:
    async with watching() as watched:
        await until(lambda: server.watches, "it watches")
        for happens in (server.bookmark, lambda: server.put(pod("m-1-0", READY))):
            heard_at = watched.contact.heard_at
            happens()
            await until(lambda before=heard_at: watched.contact.heard_at != before, "it is heard")  # type: ignore[misc]
        assert len(watched.sets) == 1


async def test_without_pods_the_set_says_why(server: ApiServer) -> None:
    server.pods.clear()
    async with watching() as watched:
        await until(lambda: watched.sets, "the first list is there")
        assert watched.sets[0].endpoints == () and "scaled to zero" in watched.sets[0].why_none
        server.put(pod("m-1-0", READY))
        await until(lambda: watched.names == ["m-1-0"], "one is there")
        assert not watched.sets[-1].why_none


async def test_a_list_may_be_null(server: ApiServer) -> None:
    server.on_list = saying(whole(200, {"kind": "PodList", "metadata": {"resourceVersion": "1"}, "items": None}))
    async with watching() as watched:
        await until(lambda: watched.sets, "the first list is there")
        assert watched.sets[0].endpoints == ()


def _forget_by_event(server: ApiServer) -> None:
    server.pods.pop("m-1-0")
    server.fail_watchers(410, "Expired")


def _forget_by_status(server: ApiServer) -> None:
    """The connection ends, and the next watch is refused once."""

    def once(peer: Peer, asked: Asked) -> None:
        server.on_watch = None
        refusing(410, "Expired", "too old resource version")(peer, asked)

    server.pods.pop("m-1-0")
    server.on_watch = once
    server.drop()


@pytest.mark.parametrize("forget", [_forget_by_event, _forget_by_status])
async def test_a_forgotten_version_means_a_new_list_that_replaces_everything(
    server: ApiServer, forget: Callable[[ApiServer], None]
) -> None:
    async with watching() as watched:
        await until(lambda: server.watches, "it watches")
        forget(server)
        await until(lambda: watched.names == ["m-1-1"], "the pod of whose end nobody was told is gone")
        server.put(pod("m-1-7", READY))
        await until(lambda: watched.names == ["m-1-1", "m-1-7"], "it watches again")
        assert not watched.contact.problem


async def test_a_410_is_no_problem(server: ApiServer, caplog: pytest.LogCaptureFixture) -> None:
    async with watching() as watched:
        await until(lambda: server.watches, "it watches")
        server.fail_watchers(410, "Expired")
        await until(lambda: server.watches == 2, "it watches again")
        assert not watched.contact.problem and not caplog.records


async def test_an_api_server_that_fell_silent_is_asked_anew(
    server: ApiServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Which is nothing to worry about: before it has seen a first pod change a real one sends no bookmarks."""
    async with watching(silence_seconds=0.3) as watched:
        await until(lambda: server.watches, "it watches")
        server.pods.pop("m-1-0")
        await until(lambda: watched.names == ["m-1-1"], "it has listed again")
        assert server.lists == 2
        assert not watched.contact.problem and not caplog.records


async def test_a_bookmark_breaks_the_silence(server: ApiServer) -> None:
    async with watching(silence_seconds=2.0):
        await until(lambda: server.watches, "it watches")
        for _ in range(25):
            server.bookmark()
            await asyncio.sleep(0.1)
        assert server.watches == 1


NOT_AN_API = b"<html>Welcome</html>"
WATCH_HEAD = head(content_type="application/json", transfer_encoding="chunked")
BAD_LISTS: dict[str, Script] = {
    "500": refusing(500, "InternalError", "etcdserver: leader changed"),
    "503": saying(whole(503, NOT_AN_API)),
    "429": refusing(429, "TooManyRequests"),
    "401": refusing(401, "Unauthorized"),
    "403": refusing(403, "Forbidden", 'pods is forbidden: User "x" cannot list resource "pods"'),
    "html": saying(whole(200, NOT_AN_API)),
    "another object": saying(whole(200, {"kind": "Status", "items": 5})),
    "half an answer": then_closing(head(content_length=1000), b'{"metadata": {}, "items": ['),
    "no http": then_closing(b"SSH-2.0-OpenSSH\r\n\r\n"),
    "nothing": then_closing(),
}
BAD_WATCHES: dict[str, Script] = {
    **{name: script for name, script in BAD_LISTS.items() if name != "another object"},
    "half a line": then_closing(WATCH_HEAD, chunk(b'{"type": "ADDED", "obj'), END),
    "a pod without a name to know": then_closing(WATCH_HEAD, chunk(b'{"type": "ADDED", "object": {"metadata": 5}}\n')),
    "an error of its own": then_closing(
        WATCH_HEAD, chunk(b'{"type": "ERROR", "object": {"code": 500, "message": "no"}}\n')
    ),
    "an end at once": then_closing(WATCH_HEAD, END),
    "a line without end": then_closing(WATCH_HEAD, *(chunk(b"x" * (1 << 20)) for _ in range(6))),
}


@pytest.mark.parametrize("script", BAD_LISTS.values(), ids=BAD_LISTS)
async def test_while_lists_fail_the_last_set_stands(server: ApiServer, script: Script) -> None:
    async with watching() as watched:
        await until(lambda: server.watching, "it watches")
        server.on_list = script
        server.drop()
        await until(lambda: server.lists >= 3, "it has tried twice again")
        assert watched.names == ["m-1-0", "m-1-1"] and watched.contact.problem
        server.pods.pop("m-1-0")
        server.on_list = None
        await until(lambda: watched.names == ["m-1-1"], "it has listed again")
        assert not watched.contact.problem


@pytest.mark.parametrize("script", BAD_WATCHES.values(), ids=BAD_WATCHES)
async def test_while_watches_fail_lists_go_on(server: ApiServer, script: Script) -> None:
    async with watching() as watched:
        await until(lambda: server.watching, "it watches")
        server.on_watch = script
        server.drop()
        await until(lambda: server.watches >= 3, "it has tried twice again")
        server.pods.pop("m-1-0")
        await until(lambda: watched.names == ["m-1-1"], "it has listed again")
        server.on_watch = None
        server.drop()
        await until(lambda: server.asked and not watched.contact.problem, "all is well")
        server.put(pod("m-1-5", READY))
        await until(lambda: watched.names == ["m-1-1", "m-1-5"], "it watches again")


async def test_while_nobody_listens_the_last_set_stands(server: ApiServer, caplog: pytest.LogCaptureFixture) -> None:
    async with watching() as watched:
        await until(lambda: server.watches, "it watches")
        server.down()
        await until(lambda: "Cannot connect" in watched.contact.problem, "the connection is refused")
        heard_at = watched.contact.heard_at
        await asyncio.sleep(1)
        assert watched.names == ["m-1-0", "m-1-1"] and watched.contact.heard_at == heard_at
        told = [record for record in caplog.records if "Cannot connect" in record.getMessage()]
        assert len(told) == 1, "each trouble is told once"
        server.up()
        server.put(pod("m-1-2", READY))
        await until(lambda: watched.names == ["m-1-0", "m-1-1", "m-1-2"], "it is heard again")


async def test_events_may_be_long(server: ApiServer) -> None:
    long = pod("m-1-2", READY)
    long["metadata"]["annotations"] = {"x": "y" * 1_000_000}
    async with watching() as watched:
        await until(lambda: server.watches, "it watches")
        server.put(long)
        await until(lambda: "m-1-2" in watched.names, "it is read")
        assert server.watches == 1


async def test_a_login_that_is_lost_is_found_again(server: ApiServer, tmp_path: Path) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    kept = kubeconfig.read_text()
    async with watching() as watched:
        await until(lambda: server.watching, "it watches")
        kubeconfig.unlink()
        server.drop()
        await until(lambda: "no Kubernetes to log in to" in watched.contact.problem, "it cannot log in")
        assert watched.names == ["m-1-0", "m-1-1"]
        server.pods.pop("m-1-0")
        kubeconfig.write_text(kept)
        await until(lambda: watched.names == ["m-1-1"], "it has logged in again")


async def test_each_list_comes_with_the_token_of_that_moment(
    server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = tmp_path / "token"
    token.write_text("first")
    monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig(tmp_path / "with-token", tokenFile=str(token))))
    async with watching():
        await until(lambda: server.watching, "it watches")
        token.write_text("second")
        server.drop()
        await until(lambda: server.watches == 2, "it watches again")
        used = [asked.headers["authorization"] for asked in server.asked]
        assert used == ["Bearer first", "Bearer first", "Bearer second", "Bearer second"]


async def test_the_namespace_is_the_logins_own(server: ApiServer, tmp_path: Path) -> None:
    assert await namespace_of_login() == "ours"
    kubeconfig = tmp_path / "kubeconfig"
    config = json.loads(kubeconfig.read_text())
    del config["contexts"][0]["context"]["namespace"]
    kubeconfig.write_text(json.dumps(config))
    assert await namespace_of_login() == "default"


def test_pauses_grow_to_a_limit_and_differ_by_chance() -> None:
    for failures in range(1, 100):
        some = [pause(0.5, failures, random.Random(seed)) for seed in range(50)]
        most = min(0.5 * 2 ** (failures - 1), PAUSE_MOST_SECONDS)
        assert most / 2 <= min(some) < max(some) <= most
        assert len(set(some)) > 40
