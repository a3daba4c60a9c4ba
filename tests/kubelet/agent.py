"""The kubelet of all its nodes: watches pods, and makes their status what their scripts say."""

import asyncio
import contextlib
import fnmatch
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec

from dp_vllm.kubernetes_api import APPLY, JSON, ApiError, KubernetesApi, Unreachable

from .nodes import HEARTBEAT_SECONDS, LEASES, lease, node
from .script import Script, default_script, status

Object = dict[str, Any]
Key = tuple[str, str]
"""Namespace and name."""

_STRATEGIC: Final = "application/strategic-merge-patch+json"
_AGAIN_SECONDS: Final = 0.2
_SILENCE_SECONDS: Final = 3600.0


@dataclass(slots=True)
class _Pod:
    """A pod on one of our nodes, as it was seen last."""

    object: Object
    ip: str
    seen_at: float
    written: Object | None = None
    deleted_at: float = math.inf
    settling: bool = False
    timer: asyncio.TimerHandle | None = None

    @property
    def path(self) -> str:
        metadata = self.object["metadata"]
        return f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}"


@dataclass(slots=True)
class Agent:
    """Of the nodes that are added, for the pods of one namespace, or of all if it is empty."""

    api: KubernetesApi
    namespace: str
    tasks: asyncio.TaskGroup
    log_port: int = 0
    ready_for_seconds: float = 0.0
    """Pods that get ready say that they have been for so long."""
    _alive: dict[str, bool] = field(default_factory=dict)
    _scripts: list[tuple[str, Script]] = field(default_factory=list)
    _pods: dict[str, _Pod] = field(default_factory=dict)
    _addresses: int = 0

    async def add_node(self, name: str, gpus: int) -> None:
        self._alive[name] = True
        await self._beat(name)
        await self.api.request("POST", "/api/v1/nodes", body=node(name, self.namespace, gpus, self.log_port))

    async def remove_node(self, name: str) -> None:
        del self._alive[name]
        await self._delete_node(name)

    def lose(self, name: str) -> None:
        """Its heartbeat ends, and nothing becomes of its pods any more."""
        self._alive[name] = False

    async def restore(self, name: str) -> None:
        """It is there again, and says what it knows of its pods."""
        self._alive[name] = True
        await self._beat(name)
        conditions = node(name, "", 0, 0)["status"]["conditions"]
        await self._tell("PATCH", f"/api/v1/nodes/{name}/status", {"status": {"conditions": conditions}}, _STRATEGIC)
        for pod in self._pods.values():
            pod.written = None
        self._look_at_all()

    def script(self, pattern: str, script: Script) -> None:
        """Say what becomes of pods by the name, present and future ones; what was said last holds."""
        self._scripts.append((pattern, script))
        self._look_at_all()

    async def heartbeats(self) -> None:
        while True:
            for name in [name for name, alive in self._alive.items() if alive]:
                await self._beat(name)
            await asyncio.sleep(HEARTBEAT_SECONDS)

    async def watch(self, listening: Callable[[], None]) -> None:
        """Follow pods for ever, from the beginning whenever the connection is lost."""
        while True:
            try:
                pods = await self.api.request("GET", self._pods_path)
                self._see_all(pods["items"])
                listening()
                since = {"watch": "1", "resourceVersion": pods["metadata"]["resourceVersion"]}
                async for line in self.api.lines(self._pods_path, since, silence_seconds=_SILENCE_SECONDS):
                    event = msgspec.json.decode(line)
                    if event["type"] == "ERROR":  # too old
                        break
                    self._see(event["object"], is_gone=event["type"] == "DELETED")
            except (Unreachable, ApiError):
                await asyncio.sleep(_AGAIN_SECONDS)

    async def end(self) -> None:
        """Take away the nodes and, in a namespace, the pods."""
        self._scripts.clear()
        alive, self._alive = self._alive, {}
        with contextlib.suppress(Unreachable):
            if self.namespace:
                await self.api.request("DELETE", self._pods_path, body={"gracePeriodSeconds": 0})
            for name in alive:
                await self._delete_node(name)
        for pod in self._pods.values():
            _cancel(pod)

    @property
    def _pods_path(self) -> str:
        return f"/api/v1/namespaces/{self.namespace}/pods" if self.namespace else "/api/v1/pods"

    async def _delete_node(self, name: str) -> None:
        for path in (f"/api/v1/nodes/{name}", f"{LEASES}/{name}"):
            with contextlib.suppress(ApiError):
                await self.api.request("DELETE", path)

    async def _beat(self, name: str) -> None:
        query = {"fieldManager": "kubelet", "force": "true"}
        await self._tell("PATCH", f"{LEASES}/{name}", lease(name), APPLY, query)

    def _see_all(self, pods: list[Object]) -> None:
        there = {pod["metadata"]["uid"] for pod in pods}
        for gone in [pod for uid, pod in self._pods.items() if uid not in there]:
            self._see(gone.object, is_gone=True)
        for pod in pods:
            self._see(pod, is_gone=False)

    def _see(self, pod: Object, *, is_gone: bool) -> None:
        uid = pod["metadata"]["uid"]
        if is_gone:
            if (gone := self._pods.pop(uid, None)) is not None:
                _cancel(gone)
        elif pod["spec"].get("nodeName") in self._alive:
            known = self._pods.get(uid)
            if known is None:
                known = self._pods[uid] = _Pod(pod, self._next_address(), time.time())
            known.object = pod
            if "deletionTimestamp" in pod["metadata"]:
                known.deleted_at = min(known.deleted_at, time.time())
            self._look(known)

    def _look_at_all(self) -> None:
        for pod in self._pods.values():
            self._look(pod)

    def _look(self, pod: _Pod) -> None:
        if not pod.settling:
            pod.settling = True
            self.tasks.create_task(self._settle(pod))

    async def _settle(self, pod: _Pod) -> None:
        """Do for a pod what is to be done now, and look again when there will be more."""
        _cancel(pod)
        while self._alive.get(pod.object["spec"]["nodeName"]) and pod.object["metadata"]["uid"] in self._pods:
            script, now = self._script_of(pod), time.time()
            if now >= _end(pod, script):
                uid = pod.object["metadata"]["uid"]
                body = {"gracePeriodSeconds": 0, "preconditions": {"uid": uid}}
                await self._tell("DELETE", pod.path, body)
                self._pods.pop(uid, None)
                break
            wanted = status(pod.object, script, pod.ip, pod.seen_at, now)
            if wanted == pod.written:
                self._look_later(pod, script, now)
                break
            pod.written = wanted
            dated = wanted | {"conditions": _dated(wanted["conditions"], pod.object, self.ready_for_seconds)}
            await self._tell("PATCH", f"{pod.path}/status", {"status": dated}, _STRATEGIC)
        pod.settling = False

    def _look_later(self, pod: _Pod, script: Script, now: float) -> None:
        moments = [at for at in (pod.seen_at + script.start_seconds, _end(pod, script)) if now < at < math.inf]
        if moments:
            pod.timer = asyncio.get_running_loop().call_later(min(moments) - now, self._look, pod)

    def _script_of(self, pod: _Pod) -> Script:
        name = pod.object["metadata"]["name"]
        said = (script for pattern, script in reversed(self._scripts) if fnmatch.fnmatchcase(name, pattern))
        return next(said, None) or default_script(pod.object)

    def _next_address(self) -> str:
        self._addresses += 1
        return f"10.{self._addresses >> 16 & 255}.{self._addresses >> 8 & 255}.{self._addresses & 255}"

    async def _tell(
        self, method: str, path: str, body: object = None, content_type: str = JSON, query: dict[str, str] | None = None
    ) -> None:
        """Try until the API server has heard; what it refuses is out of date."""
        while self._alive:
            try:
                await self.api.request(method, path, query=query, body=body, content_type=content_type)
            except ApiError as error:
                if error.status not in (404, 409):
                    raise
            except Unreachable:
                await asyncio.sleep(_AGAIN_SECONDS)
                continue
            return


def _end(pod: _Pod, script: Script) -> float:
    grace = pod.object["metadata"].get("deletionGracePeriodSeconds", math.inf)
    seconds = script.stop_seconds if math.isinf(script.stop_seconds) else min(script.stop_seconds, grace)
    return pod.deleted_at + seconds


def _cancel(pod: _Pod) -> None:
    if pod.timer is not None:
        pod.timer.cancel()


def _dated(conditions: list[Object], pod: Object, ready_for_seconds: float) -> list[Object]:
    """Conditions with the time since when they have this value."""
    now = datetime.now(UTC)
    turned = {"True": now - timedelta(seconds=ready_for_seconds), "False": now}
    before = {c["type"]: (c["status"], c.get("lastTransitionTime")) for c in pod["status"].get("conditions", [])}
    return [
        c | {"lastTransitionTime": since if status == c["status"] and since else f"{turned[c['status']]:%FT%TZ}"}
        for c in conditions
        for status, since in [before.get(c["type"], ("", None))]
    ]
