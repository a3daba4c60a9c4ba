"""HTTP on unix sockets, for commands that ask once and wait for the answer."""

import http.client
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ANSWER_SECONDS: Final = 5.0
"""How long an answer may take."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    status: int
    body: bytes


class Silent(Exception):
    """Nobody answered properly; its text says why."""


def ask(path: Path, target: str, body: bytes | None = None) -> Answer:
    """GET, or POST if there is a body. Raises Silent."""
    connection = _Connection(path)
    try:
        connection.request("GET" if body is None else "POST", target, body)
        answer = connection.getresponse()
        return Answer(answer.status, answer.read())
    except (OSError, http.client.HTTPException) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
        raise Silent(reason) from error
    finally:
        connection.close()


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=ANSWER_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(ANSWER_SECONDS)
        self.sock.connect(os.fspath(self._path))
