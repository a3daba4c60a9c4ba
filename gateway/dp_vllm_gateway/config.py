"""The gateway's settings: one frozen value, made once from the command line; each unit and default stands here."""

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from dp_vllm import names
from dp_vllm.policy import AHEAD_SECONDS, DEFAULT_POLICY, PREFIX_WEIGHT, Policy

STREAM_SECONDS: Final = 600.0
"""Until a stream's first event, if nothing else is set: the engine's queue and the prefill."""


def _limit(default: Any, said: str) -> Any:
    """A limit and what the command line says of it, where each is a flag of the same name."""
    return field(default=default, metadata={"said": said})


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much and how long. There is no limit on a whole request: a long answer is not an error."""

    max_body_bytes: int = _limit(256 << 20, "One request's body, or one message of a WebSocket.")
    max_buffered_bytes: int = _limit(
        1 << 30, "All bodies and unfinished messages that are held at one time; beyond it 503."
    )
    body_idle_seconds: float = _limit(
        60.0, "Between two pieces of a request's body, and how far it may fall behind 1000 bytes a second; then 408."
    )
    connect_seconds: float = _limit(3.0, "To connect to an engine; a vanished address answers nothing.")
    first_byte_seconds: float = _limit(
        0.0,
        "Until an answer's first body byte; comments are none. 0: 600 for a stream, no limit for other answers, whose "
        "first byte comes with the last.",
    )
    chunk_seconds: float = _limit(300.0, "Between two pieces of an answer.")
    write_seconds: float = _limit(60.0, "How long a client may take nothing of what was sent to it.")
    max_replica_sequences: int = _limit(
        1024, "In flight at one replica; more would only wait in the engine, so they wait in the gateway."
    )
    replica_ahead_seconds: float = _limit(
        AHEAD_SECONDS, "How much of reading a replica may have ahead; longer prompts than fit wait in the gateway."
    )
    max_queued_requests: int = _limit(4096, "That wait in the gateway; then 429 if no replica may have more.")
    queue_seconds: float = _limit(30.0, "How long a request waits there; then 429 if no replica may have more.")
    idle_client_seconds: float = _limit(75.0, "A client's connection without a request, or with half a head.")
    websocket_idle_seconds: float = _limit(
        600.0, "A WebSocket on which no message passes either way; then it is closed with 1001."
    )
    probe_seconds: float = _limit(5.0, "Between two looks at an engine; also how long one look may take.")

    def first_byte(self, *, stream: bool) -> float:
        """How long an answer's first byte may take, in seconds."""
        return self.first_byte_seconds or (STREAM_SECONDS if stream else math.inf)

    @property
    def change_seconds(self) -> float:
        """How long a replica may take for a change of all replicas, such as to load an adapter or to sleep."""
        return self.first_byte(stream=True)


def divided(limits: Limits, workers: int) -> Limits:
    """The part of each of several processes. A body that is allowed has room in each."""
    least_room = min(limits.max_body_bytes, limits.max_buffered_bytes)
    return replace(
        limits,
        max_buffered_bytes=max(limits.max_buffered_bytes // workers, least_room),
        max_queued_requests=max(1, limits.max_queued_requests // workers),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """Certificates of the endpoint, as vllm serve's --ssl-* flags name them."""

    keyfile: Path | None = None
    certfile: Path
    ca_certs: Path | None = None
    cert_reqs: int = 0
    ciphers: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cors:
    """Which web pages of other origins may use the endpoint; none by default, as in vLLM."""

    origins: tuple[str, ...] = ()
    methods: tuple[str, ...] = ("*",)
    headers: tuple[str, ...] = ("*",)
    credentials: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class KubernetesModel:
    """A DPModel whose pods are the replicas."""

    name: str
    namespace: str | None = None
    """None: that of the login."""
    peers: "PeerDoor | None" = None
    """None: it tells other gateways of the model nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerDoor:
    """Where other gateways of the same model find this one."""

    address: str
    """The pod's, as the API server tells it."""
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayConfig:
    """Everything that one gateway process is told."""

    replicas: tuple[str, ...] = ()
    """Addresses of engines that somebody else started: `host:port` or `unix:/path`."""
    endpoints_file: Path | None = None
    """The supervisor's file, instead of `replicas`."""
    kubernetes: KubernetesModel | None = None
    """The pods of a cluster, instead of both."""
    host: str | None = None
    port: int = names.DEFAULT_PORT
    uds: Path | None = None
    listen_fds: tuple[int, ...] = ()
    """Listening sockets that were inherited; then host, port and uds are not used."""
    api_keys: tuple[str, ...] = ()
    admin_api_keys: tuple[str, ...] = ()
    """Keys that may do more: without any, every key may."""
    api_key_file: Path | None = None
    admin_api_key_file: Path | None = None
    replica_api_key: str | None = None
    policy: Policy = DEFAULT_POLICY
    prefix_weight: float = PREFIX_WEIGHT
    """How many seconds of waiting a second of saved prefill is worth."""
    record: Path | None = None
    """Where what was asked is recorded, for `dp-vllm replay`."""
    admin_socket: Path | None = None
    metrics_port: int | None = None
    tls: Tls | None = None
    root_path: str = ""
    cors: Cors = field(default_factory=Cors)
    docs: bool = True
    allow_unsafe_routes: bool = False
    """Opens the routes that act on one replica of many (`Reach.NEVER`)."""
    max_address_connections: int | None = None
    """From one client address in each process; None: three quarters of all that it can serve."""
    shutdown_timeout_seconds: float = 5.0
    """How long streams may go on after SIGTERM."""
    workers: int = 1
    """Processes that serve together; `limits` are what one of them may."""
    json_log: bool = False
    access_log: bool = True
    limits: Limits = field(default_factory=Limits)
