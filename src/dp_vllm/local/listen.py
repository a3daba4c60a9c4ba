"""Opens the endpoint's listening sockets before anything is started, so that a taken address is an error at once.

The supervisor keeps them while gateways come and go: clients that connect meanwhile wait instead of being refused. It
must not know what is served.
"""

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import psutil

from dp_vllm import hosts
from dp_vllm.errors import UserError
from dp_vllm.local.deployment import Listen
from dp_vllm.local.pids import command_line

BACKLOG = 4096
"""How many clients may wait for a gateway that restarts; the kernel's `somaxconn` caps it."""


PORTS_TRIED: Final = 100
"""With `or_next`: how many ports are tried, the first among them."""


class _Taken(UserError):
    """Somebody else listens there."""


@contextlib.contextmanager
def listening(listen: Listen) -> Iterator[tuple[socket.socket, ...]]:
    """The endpoint's sockets, listening and inheritable, during the block; `at` says where they are.

    Raises UserError, naming who holds the address, if it is taken, and if it cannot be listened on at all.
    """
    with contextlib.ExitStack() as stack:
        if listen.uds is not None:
            sockets = [stack.enter_context(_unix(listen.uds))]
            stack.callback(listen.uds.unlink, missing_ok=True)
        else:
            sockets = [stack.enter_context(each) for each in _first_free(listen)]
        for each in sockets:
            each.set_inheritable(True)
        yield tuple(sockets)


def at(listen: Listen, sockets: Sequence[socket.socket]) -> Listen:
    """The same, with the port that these sockets have."""
    return listen if listen.uds is not None else replace(listen, port=sockets[0].getsockname()[1])


def _first_free(listen: Listen) -> list[socket.socket]:
    if listen.or_next:
        for port in range(listen.port, listen.port + PORTS_TRIED):
            with contextlib.suppress(_Taken):
                return _all_tcp(replace(listen, port=port))
    return _all_tcp(listen)


def _all_tcp(listen: Listen) -> list[socket.socket]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(_tcp(family, address, listen)) for family, address in _addresses(listen)]
        stack.pop_all()  # they stay open
        return sockets


def _addresses(listen: Listen) -> Sequence[tuple[socket.AddressFamily, Any]]:
    try:
        found = socket.getaddrinfo(listen.host or None, listen.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise UserError(f"--host: {listen.host!r} is no address of this machine ({error.strerror})") from error
    unique = dict.fromkeys((family, address) for family, _, _, _, address in found)
    if listen.host and hosts.is_everywhere(listen.host):
        return list(unique)
    usable = [(family, address) for family, address in unique if _is_usable(family)]
    return usable or list(unique)


def _is_usable(family: socket.AddressFamily) -> bool:
    """Whether this machine has addresses of that family: many containers have IPv6 switched off."""
    if family != socket.AF_INET6:
        return True
    try:
        with socket.socket(family) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def _tcp(family: socket.AddressFamily, address: Any, listen: Listen) -> socket.socket:
    try:
        made = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise UserError(_tcp_problem(error, listen)) from error
    try:
        # Not SO_REUSEPORT: with it a second server of the same user would bind without an error.
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # `::` alone takes IPv4 as well, as in vLLM; without a host there is a socket for each family.
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not (listen.host and _is_all(address)))
        made.bind(address)
        made.listen(BACKLOG)
    except OSError as error:
        made.close()
        kind = _Taken if error.errno == errno.EADDRINUSE else UserError
        raise kind(_tcp_problem(error, listen)) from error
    return made


def _is_all(address: Any) -> bool:
    return hosts.is_everywhere(address[0])


def _tcp_problem(error: OSError, listen: Listen) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"--port: {listen.port} is taken by {_holder_of_port(listen.port)}; end it, or choose another --port"
    if error.errno == errno.EAFNOSUPPORT:
        return f"--host: {listen.host!r} is an address of IPv6, which this machine has switched off"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"--host: {listen.host!r} is no address of this machine"
    if error.errno == errno.EACCES:
        return f"--port: {listen.port} may be used by root alone; choose one of 1024 and above"
    return f"cannot listen on {listen.url}: {error.strerror}"


def _unix(path: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        made.bind(os.fspath(path))
        made.listen(BACKLOG)
    except OSError as error:
        made.close()
        raise UserError(f"--uds: cannot listen on {path}: {error.strerror or error}") from error
    except UserError:
        made.close()
        raise
    return made


def _remove_stale(path: Path) -> None:
    """Remove a socket that nobody listens on any more; refuse to touch anything else."""
    try:
        is_socket = stat.S_ISSOCK(path.lstat().st_mode)
    except FileNotFoundError:
        return
    if not is_socket:
        raise UserError(f"--uds: {path} exists and is no socket; choose another path")
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise UserError(f"--uds: {path} is taken by {_holder_of_path(path)}; end it, or choose another path")


def _holder_of_port(port: int) -> str:
    for connection in psutil.net_connections("tcp"):
        if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port:
            return _process(connection.pid)
    return _process(None)


def _holder_of_path(path: Path) -> str:
    for connection in psutil.net_connections("unix"):
        if str(connection.laddr) == str(path) and connection.pid:
            return _process(connection.pid)
    return _process(None)


def _process(pid: int | None) -> str:
    if pid is None:
        return "a process of another user"
    return f"process {pid} ({command_line(pid)})"
