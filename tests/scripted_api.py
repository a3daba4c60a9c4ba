"""An API server that knows pods alone, and does what a real one will not on request: forget, fall silent, fail, lie."""

import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import scripted
from scripted import FINE, Asked, Peer, Script, chunk, head, whole


def status(code: int, reason: str, message: str) -> dict[str, Any]:
    """What an API server says when it refuses."""
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "code": code,
        "reason": reason,
        "message": message,
    }


def refusing(code: int, reason: str, message: str = "no") -> Script:
    """A script that answers with an error."""
    return scripted.saying(whole(code, status(code, reason, message)))


@dataclass(slots=True)
class ApiServer(scripted.Engine):
    """Lists the pods that it holds, and tells watchers of each change."""

    script: Script = FINE
    version: int = 100
    pods: dict[str, dict[str, Any]] = field(default_factory=dict)
    on_list: Script | None = None
    """Done instead of listing, as long as it is set."""
    on_watch: Script | None = None
    """Done instead of watching, as long as it is set."""
    _history: list[tuple[int, bytes]] = field(default_factory=list)
    _watchers: list[Peer] = field(default_factory=list)
    _turn: threading.RLock = field(default_factory=threading.RLock)

    def __post_init__(self) -> None:
        self.script = self._answer

    # what happens

    def put(self, *pods: dict[str, Any]) -> None:
        """Add pods, or replace those of that name, and tell of each."""
        for pod in pods:
            name = pod["metadata"]["name"]
            with self._turn:
                kind = "MODIFIED" if name in self.pods else "ADDED"
                self.pods[name] = pod
                self._tell(kind, pod)

    def delete(self, name: str) -> None:
        """Remove a pod, and tell of it."""
        with self._turn:
            self._tell("DELETED", self.pods.pop(name))

    def bookmark(self) -> None:
        """Tell watchers nothing but the present version."""
        self._tell("BOOKMARK", {"kind": "Pod", "apiVersion": "v1", "metadata": {}})

    def say(self, line: bytes) -> None:
        """Send watchers a line of any kind."""
        with self._turn:
            for watcher in list(self._watchers):
                try:
                    watcher.send(chunk(line))
                except OSError:
                    self._watchers.remove(watcher)

    def fail_watchers(self, code: int, reason: str) -> None:
        """End all watches with an ERROR event."""
        self.say(_line("ERROR", status(code, reason, "too old resource version")))

    def _tell(self, kind: str, pod: dict[str, Any]) -> None:
        with self._turn:
            self.version += 1
            pod["metadata"]["resourceVersion"] = str(self.version)
            line = _line(kind, pod)
            self._history.append((self.version, line))
            self.say(line)

    # what it is asked

    @property
    def lists(self) -> int:
        """How often it was asked for all pods."""
        return sum("watch" not in query(asked) for asked in self.asked)

    @property
    def watches(self) -> int:
        """How often it was asked for changes."""
        return len(self.asked) - self.lists

    @property
    def watching(self) -> int:
        """How many watches it has begun to answer: cut before that, a client may ask once more on its own."""
        return len(self._watchers)

    def kubeconfig(self, path: Path, **user: str) -> Path:
        """Write a kubeconfig with which one logs in here, as such a user."""
        path.write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "test",
                    "clusters": [{"name": "test", "cluster": {"server": self.url}}],
                    "users": [{"name": "test", "user": user}],
                    "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": "ours"}}],
                }
            )
        )
        return path

    def _answer(self, peer: Peer, asked: Asked) -> None:
        if "watch" not in query(asked):
            (self.on_list or self._list)(peer, asked)
        else:
            (self.on_watch or self._watch)(peer, asked)

    def _list(self, peer: Peer, asked: Asked) -> None:
        with self._turn:
            metadata = {"resourceVersion": str(self.version)}
            peer.send(whole(200, {"kind": "PodList", "metadata": metadata, "items": list(self.pods.values())}))

    def _watch(self, peer: Peer, asked: Asked) -> None:
        begin = int(query(asked)["resourceVersion"])
        with self._turn:
            missed = b"".join(line for version, line in self._history if version > begin)
            begun = head(content_type="application/json", transfer_encoding="chunked")
            peer.send(begun, chunk(missed) if missed else b"")
            self._watchers.append(peer)

    def _looked(self, peer: Peer, asked: Asked) -> bool:
        return False


def query(asked: Asked) -> dict[str, str]:
    """The query of what was asked."""
    return {name: values[0] for name, values in parse_qs(urlsplit(asked.target).query).items()}


def _line(kind: str, value: Any) -> bytes:
    return json.dumps({"type": kind, "object": value}).encode() + b"\n"


@contextlib.contextmanager
def api_server(*pods: dict[str, Any]) -> Iterator[ApiServer]:
    """An API server that listens and holds these pods."""
    server = ApiServer()
    server.put(*pods)
    server.up()
    try:
        yield server
    finally:
        server.down()
