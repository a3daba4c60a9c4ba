"""Asks an engine which models it serves."""

from typing import NamedTuple

import msgspec

from dp_vllm_gateway.fetch import fetch
from dp_vllm_gateway.member import Member
from dp_vllm_gateway.upstream import UpstreamError


class Listed(NamedTuple):
    """What an engine's `/v1/models` lists."""

    models: frozenset[str]
    """What clients call its model."""
    adapters: frozenset[str]


class _Model(msgspec.Struct):
    id: str
    parent: str | None = None


class _Models(msgspec.Struct):
    data: list[_Model] = []


async def listed(member: Member, *, seconds: float, lines: bytes) -> Listed | None:
    """Its models; None if it does not say."""
    try:
        answer = await fetch(member, "GET", "/v1/models", seconds=seconds, lines=lines)
        found = msgspec.json.decode(answer.body, type=_Models).data
    except (OSError, UpstreamError, ValueError, RecursionError):
        return None
    return Listed(
        frozenset(model.id for model in found if model.parent is None),
        frozenset(model.id for model in found if model.parent is not None),
    )
