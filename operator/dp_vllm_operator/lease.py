"""Of several operators for the same models one acts: the one that holds the Lease.

Whoever holds it renews it, and gives up when that has not succeeded for the renew deadline; whoever wants it takes it
after it has not changed for its duration, which is longer. Both measure by their own clock, from what they did and saw
themselves: the times written in a Lease come from clocks that may be wrong. These are the rules of Kubernetes' own
components, so the record can be read with the usual tools.

The client library's election is not used: a request that hangs outlasts its deadline, so that two may hold at once; it
goes by the wall clock, never releases, and needs the generated models.

A Lease does not fence: what was sent before it was lost may arrive after. It knows nothing of models.
"""

import asyncio
import contextlib
import logging
import math
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Protocol

from dp_vllm import names
from dp_vllm.kubernetes_api import ApiError, Object, Unreachable

GROUP: Final = "/apis/coordination.k8s.io/v1"
NAME: Final = "dp-vllm-operator"
"""Every Lease's; its namespace tells the scope."""

_log = logging.getLogger(__name__)


class Api(Protocol):
    """What is needed of a connection to the API server."""

    async def request(
        self, method: str, path: str, *, query: Mapping[str, str] | None = None, body: object = None, seconds: float
    ) -> Object:
        """As `dp_vllm.kubernetes_api.KubernetesApi.request`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """How long things take. The difference of the first two is what clocks and messages may be late."""

    duration_seconds: int = 15
    """After so long without a change anybody may take the Lease."""
    renew_deadline_seconds: float = 10.0
    """After so long without a renewal it counts as lost."""
    retry_seconds: float = 2.0
    """Between tries, to renew it or to take it."""


@dataclass(frozen=True, slots=True)
class Sight:
    """What a Lease says, and since when it has been seen to say just this."""

    record: Mapping[str, Any]
    since: float

    @property
    def holder(self) -> str:
        """Empty if nobody holds it."""
        return str(self.record.get("holderIdentity") or "")

    def fresh_seconds(self, now: float) -> float:
        """For how long it must still be believed that the holder lives; 0 if there is none."""
        duration = float(self.record.get("leaseDurationSeconds") or 0) if self.holder else 0.0
        return max(self.since + duration - now, 0.0)


def sight(before: Sight | None, record: Mapping[str, Any], now: float) -> Sight:
    """Look again. Nothing is known of a Lease that is seen for the first time: it may have changed just now."""
    return before if before is not None and before.record == record else Sight(record, now)


@contextlib.asynccontextmanager
async def hold(
    api: Api, namespaces: Sequence[str], identity: str, *, terms: Terms | None = None
) -> AsyncIterator[asyncio.Event]:
    """Wait for the Leases in these namespaces, keep them while the block runs, and release them after it.

    The event is set when one is lost: then another operator may act, and the only right thing to do is to end at once.
    Nobody else may bear the `identity` while this process lives.
    """
    lost = asyncio.Event()
    async with contextlib.AsyncExitStack() as stack:
        for namespace in sorted(namespaces):  # all in one order, else two could wait for each other
            lease = _Lease(api, namespace, identity, terms or Terms())
            await stack.enter_async_context(_held(lease, lost))
        yield lost


@contextlib.asynccontextmanager
async def _held(lease: "_Lease", lost: asyncio.Event) -> AsyncIterator[None]:
    await lease.acquire()
    keeping = asyncio.create_task(_kept(lease, lost))
    try:
        yield
    finally:
        keeping.cancel()
        await asyncio.wait([keeping])
        if not lost.is_set():
            await lease.release()


async def _kept(lease: "_Lease", lost: asyncio.Event) -> None:
    try:
        await lease.keep()
    except Exception:
        _log.exception("the Lease %s is not kept", lease)
    lost.set()


class _Lease:
    """One candidate's part in one Lease."""

    def __init__(self, api: Api, namespace: str, identity: str, terms: Terms) -> None:
        self._api = api
        self._collection = f"{GROUP}/namespaces/{namespace}/leases"
        self._metadata = {
            "name": NAME,
            "namespace": namespace,
            "labels": {names.NAME_LABEL: names.PRODUCT, names.MANAGED_BY_LABEL: names.OPERATOR},
        }
        self._identity = identity
        self._terms = terms
        self._ours: Object | None = None
        """The object as our last write left it, if that is known."""
        self._sight: Sight | None = None
        self._renewed_at = 0.0
        """When the last write that succeeded was begun."""
        self._said = ""

    def __str__(self) -> str:
        return f"{self._metadata['namespace']}/{NAME}"

    async def acquire(self) -> None:
        """Wait until it is ours."""
        while not await self._tried():
            fresh = self._sight.fresh_seconds(_now()) if self._sight is not None else 0.0
            if self._sight is not None and fresh:
                self._say(logging.INFO, f"waits for the Lease {self}, held by {self._sight.holder}")
            await asyncio.sleep(min(self._terms.retry_seconds, fresh or math.inf))
        self._say(logging.INFO, f"holds the Lease {self} as {self._identity}")

    async def keep(self) -> None:
        """Renew it until it is lost."""
        while (left := self._deadline - _now()) > 0:
            await asyncio.sleep(min(self._terms.retry_seconds, left))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(self._deadline):
                    await self._tried()
            if self._sight is not None and self._sight.holder != self._identity:
                break
        _log.error("lost the Lease %s", self)

    async def release(self) -> None:
        """Let the next one have it without waiting."""
        try:
            lease = self._ours or await self._read()
            if lease is not None and lease["spec"].get("holderIdentity") == self._identity:
                await self._write(lease, {"holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": _stamp()})
        except (ApiError, Unreachable) as error:
            _log.warning("the Lease %s is not released: %s", self, error)

    @property
    def _deadline(self) -> float:
        return self._renewed_at + self._terms.renew_deadline_seconds

    async def _tried(self) -> bool:
        try:
            return await self._try()
        except (ApiError, Unreachable) as error:
            self._say(logging.WARNING, f"the Lease {self}: {error}")
            return False

    async def _try(self) -> bool:
        """Write our name into the Lease if it is ours or free; whether we did."""
        lease = self._ours or await self._read()
        if lease is not None:
            self._sight = sight(self._sight, lease["spec"], _now())
        last = self._sight  # a Lease that was deleted is held by whom it was held before
        if last is not None and last.holder != self._identity and last.fresh_seconds(_now()):
            return False
        began = _now()
        self._ours = None
        self._ours = await self._write(lease, self._record(last.record if last is not None else None))
        self._sight = Sight(self._ours["spec"], _now())
        self._renewed_at = began
        return True

    def _record(self, before: Mapping[str, Any] | None) -> Object:
        now = _stamp()
        record = {"acquireTime": now, "leaseTransitions": 0}
        if before is not None and before.get("holderIdentity") == self._identity:
            record = {name: before.get(name, value) for name, value in record.items()}
        elif before is not None:
            record["leaseTransitions"] = before.get("leaseTransitions", 0) + 1
        own = {"holderIdentity": self._identity, "leaseDurationSeconds": self._terms.duration_seconds}
        return {**record, **own, "renewTime": now}

    async def _read(self) -> Object | None:
        try:
            return await self._request("GET", f"{self._collection}/{NAME}")
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    async def _write(self, before: Object | None, record: Object) -> Object:
        """Refused if the object has changed meanwhile: its resourceVersion and uid go with it."""
        if before is not None:
            body = {**before, "spec": {**before["spec"], **record}}
            return await self._request("PUT", f"{self._collection}/{NAME}", body)
        body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": self._metadata, "spec": record}
        return await self._request("POST", self._collection, body)

    async def _request(self, method: str, path: str, body: Object | None = None) -> Object:
        query = {"fieldManager": names.OPERATOR} if body is not None else None
        seconds = self._terms.renew_deadline_seconds / 2  # so that one that hangs leaves time for another
        return await self._api.request(method, path, query=query, body=body, seconds=seconds)

    def _say(self, level: int, sentence: str) -> None:
        if sentence != self._said:
            self._said = sentence
            _log.log(level, "%s", sentence)


def _stamp() -> str:
    """Now, for people."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _now() -> float:
    return asyncio.get_running_loop().time()
