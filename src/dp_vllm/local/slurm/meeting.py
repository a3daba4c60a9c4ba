"""The file by which the nodes of a run find the first one: where it listens, and the run's secret.

It is beside the logs, because those are where all nodes see them, and is read by nobody but its owner.
"""

import socket
from pathlib import Path
from typing import Final

import msgspec
import psutil

from dp_vllm import own_files
from dp_vllm.errors import UserError

NAME: Final = "nodes.json"


class Meeting(msgspec.Struct, frozen=True):
    """How to reach the first node."""

    hosts: tuple[str, ...]
    """Names and addresses, to be tried in this order."""
    port: int
    secret: str


def write(logs: Path, meeting: Meeting) -> None:
    """Replace the file at once. Raises UserError if that cannot be."""
    own_files.make_directory(logs, flag="--log-dir")
    try:
        own_files.replace(logs / NAME, msgspec.json.encode(meeting))
    except OSError as error:
        raise UserError(f"--log-dir: {logs} cannot be written to: {error.strerror}") from error


def read(logs: Path) -> Meeting | None:
    """What it says; None while there is none, or if another user wrote it."""
    try:
        return msgspec.json.decode(own_files.read(logs / NAME), type=Meeting)
    except (OSError, msgspec.DecodeError):
        return None


def remove(logs: Path) -> None:
    (logs / NAME).unlink(missing_ok=True)


def own_hosts(node: str) -> tuple[str, ...]:
    """This machine's names and IPv4 addresses. Not the loopback: on other machines that is they themselves."""
    addresses = (
        address.address
        for listed in psutil.net_if_addrs().values()
        for address in listed
        if address.family == socket.AF_INET and not address.address.startswith("127.")
    )
    return tuple(dict.fromkeys((node, socket.gethostname(), *addresses)))
