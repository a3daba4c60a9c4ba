"""Whether an engine's abort of a request is the client's answer, or the sign of an engine that ends.

An engine aborts requests for two reasons: a client requested it (`/abort_requests`, `/pause`, `/sleep`), or it ends. In
the first case the abort is the answer; in the second another replica answers. What was requested through this process
is known here. Of what came another way nothing is known, so the engine is watched: one that ends closes its
connections.
"""

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Final

from dp_vllm.endpoints import State
from dp_vllm.engine.routes import Route
from dp_vllm_gateway.member import Member
from dp_vllm_gateway.upstream import Connection

REQUEST_SECONDS: Final = 10.0
"""An abort that comes so soon after such a request is taken for its effect."""

WATCH_SECONDS: Final = 4.0
"""How long an engine is watched. vLLM closes its connections up to 3 s after it aborted its requests, if it ends; if it
lives on, it closes those without a request after 5 s."""


class Aborts:
    """Owns when aborts were requested. To be made within a running event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._under_way = 0
        self._last_at = -REQUEST_SECONDS

    @contextlib.contextmanager
    def requested(self, route: Route) -> Iterator[None]:
        """While this block lasts all replicas are sent a request for `route`, which may abort others."""
        if not route.aborts:
            yield
            return
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1
            self._last_at = self._loop.time()

    async def is_answer(self, member: Member, connection: Connection) -> bool:
        """Whether an abort that came on this connection is the client's answer."""
        if self._under_way or self._loop.time() - self._last_at < REQUEST_SECONDS:
            return True
        return not _ends(member) and await connection.stays_open(WATCH_SECONDS) and not _ends(member)


def _ends(member: Member) -> bool:
    return member.endpoint.state in (State.DRAINING, State.DOWN)
