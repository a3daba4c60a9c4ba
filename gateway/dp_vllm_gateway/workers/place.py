"""What a worker is given by its parent: which one it is, how it reaches the others, where clients come in."""

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from dp_vllm_gateway.listeners import Listeners


@dataclass(frozen=True, slots=True)
class Place:
    """One of several; whoever takes it after a death has the same sockets."""

    number: int
    inbox: socket.socket
    """Where the others' datagrams arrive."""
    others: Mapping[int, socket.socket]
    """Where datagrams for each of them go, by number."""
    listeners: Listeners
    life: int
    """The parent reads from the other end of this pipe whether the worker serves; it closes with the process."""

    def serves(self) -> None:
        """Tell the parent that this worker serves clients."""
        os.write(self.life, b"serves")
