"""Finds out where a host name leads, with one look-up of a name at a time.

Look-ups run in a few threads that all names share, and one that hangs cannot be stopped: many for one dead name would
keep the others from being looked up.
"""

import asyncio
import ipaddress
import socket


class Lookup:
    """Owns the look-up of one name that is under way."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._pending: asyncio.Task[list[str]] | None = None
        self._is_name = not is_address(host)

    async def addresses(self) -> list[str]:
        """The host's addresses, the preferred one first. Raises OSError if it has none."""
        if not self._is_name:
            return [self._host]
        if self._pending is None:
            self._pending = asyncio.get_running_loop().create_task(self._look_up())
            self._pending.add_done_callback(self._done)
        return await asyncio.shield(self._pending)

    async def _look_up(self) -> list[str]:
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        except ValueError as error:  # a label that is empty or longer than 63 characters
            raise OSError(f"{self._host!r} is not a host name: {error}") from error
        return list(dict.fromkeys(str(address[0]) for *_, address in found))

    def _done(self, task: asyncio.Task[list[str]]) -> None:
        self._pending = None
        if not task.cancelled():
            task.exception()  # told to those who wait, if anybody still does


def is_address(host: str) -> bool:
    """Whether it needs no look-up."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
