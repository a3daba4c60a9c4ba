"""Listening sockets, opened so that what stands in the way is told as a sentence that names the flag."""

import contextlib
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from dp_vllm import hosts
from dp_vllm.errors import UserError

BACKLOG: Final = 4096
"""Connections that may wait to be accepted; the kernel's `somaxconn` caps it."""


def tcp(host: str | None, port: int, flag: str) -> socket.socket:
    """A socket on a port of one address, or of all: of IPv4, or with `::` of both families.

    Raises UserError if it is taken or no address of this machine.
    """
    place = f"{hosts.in_url(host or '*')}:{port}"
    try:
        family = socket.AF_INET6 if host and ":" in host else _family(host)
        both = family == socket.AF_INET6 and hosts.is_everywhere(host) and socket.has_dualstack_ipv6()
        return socket.create_server((host or "", port), family=family, backlog=BACKLOG, dualstack_ipv6=both)
    except socket.gaierror as error:
        raise UserError(f"--host: {host!r} is no address of this machine ({error.strerror})") from error
    except OSError as error:
        raise UserError(f"{flag}: cannot listen on {place}: {os.strerror(error.errno or 0)}") from error


def _family(host: str | None) -> socket.AddressFamily:
    """IPv4 where a name has such an address."""
    if not host:
        return socket.AF_INET
    families = {found[0] for found in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    return socket.AF_INET if socket.AF_INET in families else socket.AF_INET6


@contextlib.contextmanager
def unix(path: Path, flag: str, *, mode: int) -> Iterator[socket.socket]:
    """A socket in the file system with these permissions, removed at the end.

    Takes the place of one that nobody listens on any more. Raises UserError if somebody does, or if the path is
    something else or cannot be used.
    """
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as listener:
        try:
            _remove_stale(path, flag)
            listener.bind(os.fspath(path))
            path.chmod(mode)  # nobody can connect before `listen`
            listener.listen(BACKLOG)
        except OSError as error:
            raise UserError(f"{flag}: cannot listen on {path}: {error.strerror or error}") from error
        try:
            yield listener
        finally:
            path.unlink(missing_ok=True)


def _remove_stale(path: Path, flag: str) -> None:
    try:
        is_socket = stat.S_ISSOCK(path.lstat().st_mode)
    except FileNotFoundError:
        return
    if not is_socket:
        raise UserError(f"{flag}: {path} exists and is no socket; choose another path")
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as probe:
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise UserError(f"{flag}: another process listens on {path}; end it, or choose another path")
