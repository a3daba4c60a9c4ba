"""Endpoints from the file that the supervisor writes."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from dp_vllm import endpoints
from dp_vllm.endpoints import EndpointSet
from dp_vllm.errors import UserError

POLL_SECONDS: Final = 0.1
"""How soon a change is seen. Looking at a file's stamp costs microseconds."""

log = logging.getLogger(__name__)


async def watch(path: Path) -> AsyncIterator[EndpointSet]:
    """Each set that the file holds, as it changes. While it is missing or unreadable the last set stands."""
    stamp: tuple[int, int] | None = None
    while True:
        try:
            status = os.stat(path)
            if (status.st_mtime_ns, status.st_ino) != stamp:
                stamp = (status.st_mtime_ns, status.st_ino)
                yield endpoints.read(path)
        except FileNotFoundError:
            pass
        except (OSError, UserError) as error:
            log.warning("%s", error)
        await asyncio.sleep(POLL_SECONDS)
