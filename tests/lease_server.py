"""An API server that knows nothing but Leases, in memory, and the bad line between it and a client.

With an event loop whose time is simulated, hours of an election pass in a moment. The rules that it keeps are tried on
the real API server by the same test.
"""

import asyncio
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dp_vllm.kubernetes_api import ApiError, Object, Unreachable


@dataclass
class LeaseServer:
    """By namespace, the one Lease in it."""

    leases: dict[str, Object] = field(default_factory=dict)
    version: int = 0

    def answer(self, method: str, path: str, body: Any) -> Object:
        if path.endswith("/v1/leases"):
            return {"items": list(self.leases.values())}
        namespace = path.split("/")[5]
        present = self.leases.get(namespace)
        if method == "POST":
            if present is not None:
                raise ApiError(409, "AlreadyExists", "exists")
            return self._store(namespace, body, uid=f"uid-{self.version}")
        if method == "PUT":
            metadata = body["metadata"]
            if present is None or any(metadata[key] != present["metadata"][key] for key in ("uid", "resourceVersion")):
                raise ApiError(409, "Conflict", "modified")
            return self._store(namespace, body, uid=metadata["uid"])
        if present is None:
            raise ApiError(404, "NotFound", "not found")
        if method == "DELETE":
            del self.leases[namespace]
        return present

    def _store(self, namespace: str, body: Object, uid: str) -> Object:
        self.version += 1
        metadata = {**body["metadata"], "namespace": namespace, "uid": uid, "resourceVersion": str(self.version)}
        self.leases[namespace] = {**body, "metadata": metadata}
        return self.leases[namespace]


class Line:
    """One client's connection: late, and sometimes cut, before the server or after it."""

    def __init__(self, server: LeaseServer, *, rng: random.Random | None = None, late_seconds: float = 0.0) -> None:
        self._server = server
        self._rng = rng or random.Random(1)
        self._late_seconds = late_seconds
        self.cut = False

    async def request(
        self, method: str, path: str, *, query: Mapping[str, str] | None = None, body: object = None, seconds: float
    ) -> Object:
        """What was sent arrives though the client has given up; nothing comes through a line that is cut."""
        answer: asyncio.Future[Object] = asyncio.get_running_loop().create_future()
        sent = asyncio.create_task(self._carry(answer, method, path, body))
        try:
            async with asyncio.timeout(seconds):
                return await answer
        except TimeoutError:
            raise Unreachable(f"{method} {path}: no answer") from None
        finally:
            answer.add_done_callback(lambda _: sent)  # a task lives only while somebody knows it

    async def _carry(self, answer: asyncio.Future[Object], method: str, path: str, body: object) -> None:
        if not await self._passed():
            return
        try:
            said: Object | ApiError = self._server.answer(method, path, body)
        except ApiError as error:
            said = error
        if not await self._passed() or answer.done():
            return
        if isinstance(said, ApiError):
            answer.set_exception(said)
        else:
            answer.set_result(said)

    async def _passed(self) -> bool:
        await asyncio.sleep(self._rng.uniform(0, self._late_seconds))
        return not self.cut
