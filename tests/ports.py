"""TCP ports for the programs that tests start.

A program listens on its port some time after the port was chosen for it, and meanwhile the kernel may give that port to
anybody's connection or `bind(0)`. So these are below the range that it gives from, and each process of a parallel test
run has a part of them for itself.
"""

import itertools
import os
import socket
from typing import Final

_FIRST: Final = 10_000
_PARTS: Final = 11
_PART: Final = (32_768 - _FIRST) // _PARTS  # see /proc/sys/net/ipv4/ip_local_port_range

_part: Final = int(os.environ.get("PYTEST_XDIST_WORKER", "gw10").removeprefix("gw")) % _PARTS
_turns: Final = itertools.count(os.getpid())  # runs side by side do not begin with the same ones


def free_port() -> int:
    """One that nobody listens on right now, at any address of this machine."""
    for turn in itertools.islice(_turns, _PART):
        port = _FIRST + _part * _PART + turn % _PART
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
            return port
    raise AssertionError("no port is free")
