"""Asks the programs of a run how they are. Whoever does not answer properly is not ready; nothing is raised.

It must not decide what an answer leads to.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import aiohttp
import msgspec

from dp_vllm.engine import hang
from dp_vllm.engine.hang import Look

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


async def look(address: str) -> Look:
    """What the engine shows of its work."""
    metrics = await _get(address, "/metrics", _HEALTH_SECONDS)
    if metrics is None:
        return Look(answers=await is_healthy(address))
    load = _field(await _get(address, "/load", _HEALTH_SECONDS), "server_load")
    return hang.look(load if isinstance(load, int) else None, metrics.decode(errors="replace"))


async def is_idle_rightly(address: str, seconds: float) -> bool:
    """Whether an engine that does nothing may: it sleeps, or its requests wait for others and it answers one more.

    It has `seconds` for that.
    """
    for path, field_name in (("/is_sleeping", "is_sleeping"), ("/is_paused", "is_paused")):
        if _field(await _get(address, path, _HEALTH_SECONDS), field_name) is True:
            return True
    return await _ask(address, hang.CANARY_PATH, seconds, hang.CANARY) is not None


def _field(body: bytes | None, name: str) -> object:
    try:
        value = None if body is None else msgspec.json.decode(body)
    except msgspec.DecodeError:
        return None
    return value.get(name) if isinstance(value, dict) else None


async def _get(address: str, path: str, seconds: float) -> bytes | None:
    return await _ask(address, path, seconds)


async def _ask(address: str, path: str, seconds: float, content: object = None) -> bytes | None:
    """The body of a 200; GET, or POST of JSON."""
    socket = address.removeprefix("unix:")
    connector = aiohttp.UnixConnector(socket) if address.startswith("unix:") else aiohttp.TCPConnector()
    host = "localhost" if address.startswith("unix:") else address
    try:
        async with (
            aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=seconds)) as session,
            session.request("GET" if content is None else "POST", f"http://{host}{path}", json=content) as answer,
        ):
            return await answer.read() if answer.status == 200 else None
    except (aiohttp.ClientError, TimeoutError, OSError):
        return None
