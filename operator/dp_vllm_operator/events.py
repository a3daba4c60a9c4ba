"""Tells people what happened to a model, as Events of it: what `kubectl describe dpm` shows at its end.

Noting an event never waits and never fails. What is noted again, or too soon after another with the same reason, is
counted and written later: at most once a minute for each object and reason. What the API server does not take is lost.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Protocol

from dp_vllm import names
from dp_vllm.kubernetes_api import MERGE, ApiError, Unreachable
from dp_vllm_operator.trouble import one_line

EVERY_SECONDS: Final = 60.0
"""Between two writes of what has the same object and reason."""

FORGOTTEN_SECONDS: Final = 3600.0
"""An event that was not noted again for so long is another one the next time; API servers forget them then too."""

MOST: Final = 2000
"""Objects and reasons that are remembered; of more, those that were quiet for longest are forgotten."""

LONGEST: Final = 1024
"""Characters of a message, as the API server allows them."""

REQUEST_SECONDS: Final = 10.0

log = logging.getLogger(__name__)


class Subject(Protocol):
    """What an event is about: a model."""

    @property
    def namespace(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def uid(self) -> str: ...


class Api(Protocol):
    """A connection to the API server."""

    async def request(
        self, method: str, path: str, *, body: object = None, content_type: str = ..., seconds: float = ...
    ) -> dict[str, Any]: ...


@dataclass(slots=True)
class _Noted:
    """What is known of one object and reason."""

    namespace: str
    involved: Mapping[str, str]
    type: str
    reason: str
    messages: dict[str, None] = field(default_factory=dict)
    """Those not written yet, in order."""
    fresh: int = 0
    """How often it was noted since the last write."""
    noted_at: float = 0.0
    tried_at: float | None = None
    written: str = ""
    """The message of the Event that was written last."""
    event: str = ""
    """That Event's name."""
    count: int = 0
    """As that Event says."""
    first_at: float = 0.0

    def due_in(self, now: float, every_seconds: float) -> float | None:
        if not self.fresh:
            return None
        return 0.0 if self.tried_at is None else max(0.0, self.tried_at + every_seconds - now)


class Recorder:
    """Owns what was noted. `run` writes it, and must run for as long as anything is noted."""

    def __init__(
        self,
        api: Api,
        identity: str,
        clock: Callable[[], float] = time.time,
        *,
        every_seconds: float = EVERY_SECONDS,
        most: int = MOST,
    ) -> None:
        """`identity` is the operator's own name: its pod's."""
        self._api = api
        self._identity = identity
        self._clock = clock
        self._every_seconds = every_seconds
        self._most = most
        self._noted: dict[tuple[str, str], _Noted] = {}
        self._wake = asyncio.Event()

    def normal(self, subject: Subject, reason: str, message: str) -> None:
        """Something went as it should."""
        self._note(subject, "Normal", reason, message)

    def warning(self, subject: Subject, reason: str, message: str) -> None:
        """Something did not."""
        self._note(subject, "Warning", reason, message)

    async def run(self) -> None:
        """Write what is due, until cancelled."""
        while True:
            self._wake.clear()
            seconds = await self._write_due()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._wake.wait()

    def _note(self, subject: Subject, kind: str, reason: str, message: str) -> None:
        now = self._clock()
        self._forget(now)
        noted = self._noted.pop((subject.uid, reason), None) or _Noted(
            subject.namespace, _involved(subject), kind, reason
        )
        noted.type, noted.noted_at = kind, now
        noted.fresh += 1
        if sum(map(len, noted.messages)) < LONGEST:
            noted.messages[one_line(message, LONGEST)] = None
        self._noted[subject.uid, reason] = noted
        self._wake.set()

    def _forget(self, now: float) -> None:
        """The oldest come first."""
        while self._noted:
            oldest = next(iter(self._noted))
            quiet = now - self._noted[oldest].noted_at > FORGOTTEN_SECONDS
            if not quiet and len(self._noted) < self._most:
                return
            del self._noted[oldest]

    async def _write_due(self) -> float | None:
        """Write what is due; the seconds until more is, None if nothing waits."""
        for noted in list(self._noted.values()):
            if noted.due_in(self._clock(), self._every_seconds) == 0.0:
                await self._write(noted)
        waits = (noted.due_in(self._clock(), self._every_seconds) for noted in self._noted.values())
        return min((wait for wait in waits if wait is not None), default=None)

    async def _write(self, noted: _Noted) -> None:
        now = self._clock()
        message, fresh = one_line("; ".join(noted.messages), LONGEST), noted.fresh
        noted.tried_at, noted.fresh, noted.messages = now, 0, {}
        again = bool(noted.event) and message == noted.written
        try:
            if again and await self._counted_up(noted, fresh, now):
                return
            noted.event, noted.written, noted.count, noted.first_at = "", message, fresh, now
            path = f"/api/v1/namespaces/{noted.namespace}/events"
            made = await self._api.request("POST", path, body=self._event(noted), seconds=REQUEST_SECONDS)
            noted.event = made.get("metadata", {}).get("name", "")
        except (ApiError, Unreachable) as error:
            log.debug("an event of %s was not written: %s", noted.involved["name"], error)

    async def _counted_up(self, noted: _Noted, fresh: int, now: float) -> bool:
        """The same happened again; False if the Event is gone."""
        path = f"/api/v1/namespaces/{noted.namespace}/events/{noted.event}"
        body = {"count": noted.count + fresh, "lastTimestamp": _time(now)}
        try:
            await self._api.request("PATCH", path, body=body, content_type=MERGE, seconds=REQUEST_SECONDS)
        except ApiError as error:
            if error.status == 404:
                return False
            raise
        noted.count += fresh
        return True

    def _event(self, noted: _Noted) -> dict[str, Any]:
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"generateName": f"{noted.involved['name']}.", "namespace": noted.namespace},
            "involvedObject": dict(noted.involved),
            "type": noted.type,
            "reason": noted.reason,
            "message": noted.written,
            "count": noted.count,
            "firstTimestamp": _time(noted.first_at),
            "lastTimestamp": _time(noted.first_at),
            "source": {"component": names.OPERATOR},
            "reportingComponent": names.OPERATOR,
            "reportingInstance": self._identity,
        }


def _involved(subject: Subject) -> dict[str, str]:
    return {
        "apiVersion": f"{names.API_GROUP}/{names.API_VERSION}",
        "kind": names.KIND,
        "namespace": subject.namespace,
        "name": subject.name,
        "uid": subject.uid,
    }


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
