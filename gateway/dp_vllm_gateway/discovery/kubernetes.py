"""Endpoints from the pods of a DPModel: listed, then watched. So are its gateways, if somebody wants to know them.

Every watch begins with a list that replaces all that was known, so nothing that was missed can stay: not a pod that
was deleted while nobody watched, nor a version that the API server has forgotten (410). While the API server is away
the last set stands; the gateway's own probes say who of it lives.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Final

import msgspec

from dp_vllm import kubernetes_api, names
from dp_vllm.endpoints import EndpointSet
from dp_vllm.errors import UserError
from dp_vllm.kubernetes_api import ApiError, KubernetesApi, Silence, Unreachable
from dp_vllm_gateway.discovery.contact import Contact
from dp_vllm_gateway.discovery.pods import Metadata, Pod, endpoints_of, gateways_of

SILENCE_SECONDS: Final = 70.0
"""The API server sends a bookmark every minute, if it has seen any pod change since it started: after so long without
one the connection may be dead."""

WATCH_SECONDS: Final = (300, 600)
"""After a time between these a watch ends and all is listed again, whatever may have been missed."""

STEADY_SECONDS: Final = 10.0
"""A watch that lasted so long was a good one: the next failure is a first one."""

PAUSE_SECONDS: Final = 0.5
"""Before the second try; twice as long before each further one, and by chance up to a half shorter."""

PAUSE_MOST_SECONDS: Final = 15.0

log = logging.getLogger(__name__)


class _Pods(msgspec.Struct):
    metadata: Metadata
    items: list[Pod] | None


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _Status(msgspec.Struct):
    code: int = 0
    reason: str = ""
    message: str = ""


_PODS: Final = msgspec.json.Decoder(_Pods)
_EVENT: Final = msgspec.json.Decoder(_Event)
_POD: Final = msgspec.json.Decoder(Pod)
_STATUS: Final = msgspec.json.Decoder(_Status)


class Replicas:
    """The endpoints of one model, as the API server tells of its pods."""

    def __init__(
        self,
        model: str,
        namespace: str,
        contact: Contact,
        *,
        clock: Callable[[], float],
        rng: random.Random,
        on_gateways: Callable[[frozenset[str]], None] | None = None,
        silence_seconds: float = SILENCE_SECONDS,
        pause_seconds: float = PAUSE_SECONDS,
    ) -> None:
        """`on_gateways` is called with the addresses of the model's gateways, when they change."""
        self._model = model
        self._path = f"/api/v1/namespaces/{namespace}/pods"
        wanted = f"={names.REPLICA}" if on_gateways is None else f" in ({names.REPLICA},{names.GATEWAY})"
        self._selector = f"{names.MODEL_LABEL}={model},{names.COMPONENT_LABEL}{wanted}"
        self._on_gateways = on_gateways
        self._gateways: frozenset[str] = frozenset()
        self._contact = contact
        self._clock = clock
        self._rng = rng
        self._silence_seconds = silence_seconds
        self._pause_seconds = pause_seconds
        self._pods: dict[str, Pod] = {}
        self._set = EndpointSet(0, ())

    async def watch(self) -> AsyncIterator[EndpointSet]:
        """Each set, as it changes; for ever, whatever the API server does."""
        failures = 0
        while True:
            began, problem = self._clock(), ""
            try:
                async with kubernetes_api.connect() as api, contextlib.aclosing(self._listed_and_watched(api)) as sets:
                    async for endpoints in sets:
                        yield endpoints
            except (ApiError, Unreachable, UserError, ValueError, RecursionError) as error:
                problem = "" if _expected(error) else str(error)
                self._tell(problem)
            steady = self._clock() - began >= STEADY_SECONDS
            failures = 0 if steady and not problem else 1 if steady else failures + 1
            if failures:
                await asyncio.sleep(pause(self._pause_seconds, failures, self._rng))

    def _tell(self, problem: str) -> None:
        """Keep what is wrong, and log it once."""
        if problem and problem != self._contact.problem:
            known = len(self._set.endpoints)
            stays = f"the {known} replicas that were known stay" if self._set.generation else "none is known"
            log.warning("the API server cannot be asked for the replicas of %s, %s: %s", self._model, stays, problem)
        self._contact.problem = problem

    async def _listed_and_watched(self, api: KubernetesApi) -> AsyncGenerator[EndpointSet, None]:
        listed = _PODS.decode(await api.text("GET", self._path, query={"labelSelector": self._selector}))
        self._heard()
        self._pods = {pod.metadata.name: pod for pod in listed.items or [] if pod.belongs_to(self._model)}
        known = self._present()
        yield known
        query = {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "labelSelector": self._selector,
            "resourceVersion": listed.metadata.resource_version,
            "timeoutSeconds": str(self._rng.randint(*WATCH_SECONDS)),
        }
        lines = api.lines(self._path, query, silence_seconds=self._silence_seconds)
        async with contextlib.aclosing(lines):
            async for line in lines:
                event = _EVENT.decode(line)
                self._take_in(event)
                self._heard()
                if self._present() is not known:
                    known = self._set
                    yield known

    def _heard(self) -> None:
        if self._contact.problem:
            log.info("the API server tells of the replicas of %s again", self._model)
        self._contact.problem = ""
        self._contact.heard(self._clock())

    def _take_in(self, event: _Event) -> None:
        """Raises ApiError if the watch is at its end, 410 for example."""
        match event.type:
            case "ADDED" | "MODIFIED":
                pod = _POD.decode(event.object)
                if pod.belongs_to(self._model):
                    self._pods[pod.metadata.name] = pod
                else:
                    self._pods.pop(pod.metadata.name, None)
            case "DELETED":
                self._pods.pop(_POD.decode(event.object).metadata.name, None)
            case "ERROR":
                status = _STATUS.decode(event.object)
                raise ApiError(status.code, status.reason, status.message)

    def _present(self) -> EndpointSet:
        """The set as it is now; the same object if nothing changed."""
        self._tell_gateways()
        endpoints = endpoints_of(self._pods.values())
        if not self._set.generation or endpoints != self._set.endpoints:
            none = f"the model {self._model} has no replica: it is scaled to zero, or its pods are not made yet"
            self._set = EndpointSet(self._set.generation + 1, endpoints, "" if endpoints else none)
        return self._set

    def _tell_gateways(self) -> None:
        gateways = gateways_of(self._pods.values())
        if self._on_gateways is not None and gateways != self._gateways:
            self._gateways = gateways
            self._on_gateways(gateways)


def pause(first_seconds: float, failures: int, rng: random.Random) -> float:
    """How many seconds to wait after so many failures in a row."""
    most: float = min(first_seconds * 2 ** min(failures - 1, 10), PAUSE_MOST_SECONDS)
    return most * rng.uniform(0.5, 1)


def _expected(error: Exception) -> bool:
    """The watch began too long ago, or had nothing to tell: all is listed again, and nothing may be wrong."""
    return isinstance(error, Silence) or (isinstance(error, ApiError) and error.status == 410)


async def namespace_of_login() -> str:
    """The namespace of whoever this process would log in as. Raises UserError if it cannot log in at all."""
    async with kubernetes_api.connect() as api:
        return api.namespace
