"""Tells systemd how the run stands, where it asks for that: `Type=notify` (sd_notify(3)).

It must not know who decides anything: it is shown the run, and sends what is new. Nobody waits for it.
"""

import contextlib
import socket
from collections.abc import Callable, Mapping
from typing import Final

from dp_vllm.endpoints import State
from dp_vllm.local.standing import Run

VARIABLE: Final = "NOTIFY_SOCKET"


class Notifier:
    """Does nothing where nobody asks."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._address = environ.get(VARIABLE, "")
        self._told: dict[str, str] = {}
        self._has_served = False

    def tell(self, standing: Callable[[], Run]) -> None:
        """Send what changed since it was last sent; what finds no room in the socket is sent the next time."""
        if not self._address.startswith(("/", "@")):
            return
        run = standing()
        self._has_served = self._has_served or serves(run)
        state = state_of(run, has_served=self._has_served)
        new = {name: text for name, text in state.items() if self._told.get(name) != text}
        if new and _send(self._address, "\n".join(f"{name}={text}" for name, text in new.items())):
            self._told |= new


def serves(run: Run) -> bool:
    """Whether a request would be answered."""
    return run.gateway.state is State.READY and any(replica.state is State.READY for replica in run.replicas)


def state_of(run: Run, *, has_served: bool) -> dict[str, str]:
    """What systemd is to know."""
    if run.stopping:
        return {"STOPPING": "1", "STATUS": "ending"}
    ready = sum(replica.state is State.READY for replica in run.replicas)
    words = [f"{ready} of {len(run.replicas)} replicas of {run.model} serve at {run.endpoint}"]
    words += [
        f"replica {replica.name}: {replica.message or replica.state.value}"
        for replica in run.replicas
        if replica.state is not State.READY
    ]
    return ({"READY": "1"} if has_served else {}) | {"STATUS": "; ".join(words).replace("\n", " ")}


def _send(address: str, text: str) -> bool:
    path = "\0" + address[1:] if address.startswith("@") else address
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as made:
        made.setblocking(False)
        made.sendto(text.encode(), path)
        return True
    return False
