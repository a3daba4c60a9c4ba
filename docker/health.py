"""Docker's health check: ends with 0 if the program in this container answers 200 at the path that is given.

It asks where the container's program was started to listen, with or without TLS, past any proxy.
"""

import http.client
import socket
import ssl
import sys
from collections.abc import Sequence
from pathlib import Path

from dp_vllm import hosts
from dp_vllm.engine.command import known_flags
from dp_vllm.sim import config_file

DEFAULT_PORT = 8000
TIMEOUT_SECONDS = 4.0

Place = tuple[str, int] | str
"""A host and a port, or the path of a socket."""


def place(words: Sequence[str]) -> Place:
    """Where the program with this command line listens: of a flag that is repeated the last counts."""
    given = _given(words)
    if "--config" in given:
        given = _given(config_file.words(Path(given["--config"]))) | given
    if "--uds" in given:
        return given["--uds"]
    return hosts.from_here(hosts.read(given.get("--host", "0"))), int(given.get("--port", DEFAULT_PORT))


def _given(words: Sequence[str]) -> dict[str, str]:
    return {item.flag.name: item.values[-1] for item in known_flags().read(words) if item.flag and item.values}


def status(where: Place, path: str, *, tls: bool) -> int:
    """The status of a GET."""
    connection = http.client.HTTPConnection("localhost")
    connection.sock = _connected(where)
    try:
        if tls:
            # Our own certificate, in our own container: there is no other server to confuse it with.
            context = ssl._create_unverified_context()  # noqa: S323
            connection.sock = context.wrap_socket(connection.sock)
        connection.request("GET", path)
        return connection.getresponse().status
    finally:
        connection.close()


def _connected(where: Place) -> socket.socket:
    if not isinstance(where, str):
        return socket.create_connection(where, TIMEOUT_SECONDS)
    connected = socket.socket(socket.AF_UNIX)
    connected.settimeout(TIMEOUT_SECONDS)
    connected.connect(where)
    return connected


def main(path: str) -> int:
    where = place(Path("/proc/1/cmdline").read_text(errors="replace").split("\0"))
    try:
        answer = status(where, path, tls=False)
    except (http.client.HTTPException, ConnectionResetError):
        answer = status(where, path, tls=True)
    sys.stdout.write(f"{answer} from {where if isinstance(where, str) else f'port {where[1]}'}\n")
    return int(answer != 200)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
