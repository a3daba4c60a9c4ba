"""Operators of single namespaces beside a cluster-wide one: it leaves their namespaces to them.

Seen by their Leases alone, and judged as every candidate judges a Lease: by its changes. It knows nothing of models.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from dp_vllm.kubernetes_api import ApiError, Unreachable
from dp_vllm_operator.lease import GROUP, NAME, Api, Sight, sight

LOOK_SECONDS: Final = 5.0

_log = logging.getLogger(__name__)


class Neighbours:
    """Which namespaces have an operator of their own; a cluster-wide one leaves them out."""

    def __init__(self, api: Api, lease_namespace: str) -> None:
        self._api = api
        self._lease_namespace = lease_namespace
        """The Lease there is that of the cluster-wide operators."""
        self._sights: dict[str, Sight] = {}
        self.left_out: frozenset[str] = frozenset()

    async def watch(self, changed: Callable[[], None]) -> None:
        """Look now and then, and tell when the set is another."""
        answered = True
        while True:
            before = self.left_out
            try:
                await self.look()
                answered = True
            except (ApiError, Unreachable) as error:
                if answered:
                    _log.warning("which namespaces have an operator of their own is not known: %s", error)
                answered = False
            if self.left_out != before:
                changed()
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """Look once."""
        query = {"fieldSelector": f"metadata.name={NAME}"}
        answer = await self._api.request("GET", f"{GROUP}/leases", query=query, seconds=LOOK_SECONDS)
        now = asyncio.get_running_loop().time()
        records = {lease["metadata"]["namespace"]: lease["spec"] for lease in answer["items"]}
        records.pop(self._lease_namespace, None)
        self._sights = {name: sight(self._sights.get(name), record, now) for name, record in records.items()}
        self.left_out = frozenset(name for name, last in self._sights.items() if last.fresh_seconds(now))
