"""Asks the programs of a run how they are. Whoever does not answer properly is not ready; nothing is raised.

It must not decide what an answer leads to.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import aiohttp
import msgspec

_HEALTH_SECONDS: Final = 2.0
_STATE_SECONDS: Final = 0.5
"""Short, because the supervisor's loop waits for it."""


@dataclass(frozen=True, slots=True)
class ReplicaState:
    """What the gateway has to do with one replica."""

    in_flight: int = 0
    available: bool = False


@dataclass(frozen=True, slots=True)
class GatewayState:
    """What the gateway answers to `GET /state`."""

    generation: int
    """Of the endpoints file that it acts upon, in all its processes."""
    in_flight: int
    replicas: Mapping[str, ReplicaState] = field(default_factory=dict)
    queued: int = 0
    """Requests that wait for a replica with room."""

    def uses(self, replica: str) -> bool:
        """Whether it sends requests there."""
        return self.replicas.get(replica, ReplicaState()).available

    def is_done_with(self, replica: str, generation: int) -> bool:
        """Whether it has read that generation of the endpoints file, and nothing is in flight on the replica."""
        return self.generation >= generation and self.replicas.get(replica, ReplicaState()).in_flight == 0


async def is_healthy(address: str) -> bool:
    """Whether the engine at `address` (`unix:/path` or `host:port`) answers `GET /health` with 200."""
    return await _get(address, "/health", _HEALTH_SECONDS) is not None


async def gateway_state(admin_socket: Path) -> GatewayState | None:
    """The gateway's own account; None if it does not answer."""
    body = await _get(f"unix:{admin_socket}", "/state", _STATE_SECONDS)
    try:
        return None if body is None else msgspec.json.decode(body, type=GatewayState)
    except msgspec.DecodeError:
        return None


async def _get(address: str, path: str, seconds: float) -> bytes | None:
    socket = address.removeprefix("unix:")
    connector = aiohttp.UnixConnector(socket) if address.startswith("unix:") else aiohttp.TCPConnector()
    host = "localhost" if address.startswith("unix:") else address
    try:
        async with (
            aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=seconds)) as session,
            session.get(f"http://{host}{path}") as answer,
        ):
            return await answer.read() if answer.status == 200 else None
    except (aiohttp.ClientError, TimeoutError, OSError):
        return None
