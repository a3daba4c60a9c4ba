"""The gateway's doors, opened before anything is served: what is taken is an error at once."""

import contextlib
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dp_vllm.errors import UserError
from dp_vllm_gateway import sockets
from dp_vllm_gateway.config import GatewayConfig


@dataclass(frozen=True, slots=True)
class Listeners:
    """Listening sockets."""

    endpoint: Sequence[socket.socket]
    """Where clients connect, and wait until somebody serves."""
    admin: socket.socket | None
    metrics: socket.socket | None
    peers: socket.socket | None = None
    """Where other gateways of the model connect."""

    def close(self) -> None:
        """Listen no longer in this process; others that have them still do."""
        for listener in (*self.endpoint, self.admin, self.metrics, self.peers):
            if listener is not None:
                listener.close()


@contextlib.contextmanager
def opened(config: GatewayConfig) -> Iterator[Listeners]:
    """All that are asked for. Raises UserError if one cannot be had."""
    with contextlib.ExitStack() as stack:
        endpoint = stack.enter_context(_endpoint(config))
        admin = metrics = peers = None
        if config.admin_socket is not None:
            admin = stack.enter_context(sockets.unix(config.admin_socket, "--admin-socket", mode=0o600))
        if config.metrics_port is not None:
            metrics = sockets.tcp(config.host, config.metrics_port, "--metrics-port")
            stack.callback(metrics.close)
        if config.kubernetes is not None and (door := config.kubernetes.peers) is not None:
            peers = sockets.tcp(door.address, door.port, "--peer-port")
            stack.callback(peers.close)
        yield Listeners(endpoint, admin, metrics, peers)


@contextlib.contextmanager
def _endpoint(config: GatewayConfig) -> Iterator[list[socket.socket]]:
    if config.listen_fds:
        yield [_inherited(fd) for fd in config.listen_fds]
    elif config.uds is not None:
        with sockets.unix(config.uds, "--uds", mode=0o666) as listener:
            yield [listener]
    else:
        with contextlib.closing(sockets.tcp(config.host, config.port, "--port")) as listener:
            yield [listener]


def _inherited(fd: int) -> socket.socket:
    try:
        return socket.socket(fileno=fd)
    except OSError as error:
        raise UserError(f"--listen-fd {fd} is not a socket that this process has: {error.strerror}") from error
