"""What the admin socket tells of the gateway at one moment. Pure: the pool in, plain values out."""

from dataclasses import dataclass

from dp_vllm_gateway.discovery.contact import Contact
from dp_vllm_gateway.member import Member
from dp_vllm_gateway.pool import Pool
from dp_vllm_gateway.queue import Queue


@dataclass(frozen=True, slots=True)
class ReplicaState:
    """One replica, as far as the gateway knows."""

    address: str
    state: str
    """What the one who started it says: `dp_vllm.endpoints.State`."""
    available: bool
    """Ready and healthy."""
    healthy: bool
    """The gateway's own probes say so."""
    ejected: bool
    """Left out for a while, because requests could not reach it."""
    in_flight: int
    """Requests."""
    sequences: int
    waiting_tokens: int
    """Of prompts that it has not begun to answer."""
    message: str
    """How far its start is, or why it is down."""


@dataclass(frozen=True, slots=True)
class SourceState:
    """Whether the one who says which replicas there are is still heard."""

    age_seconds: float | None
    """Since it last said something; None if it never did."""
    problem: str
    """Why it is not heard now."""


@dataclass(frozen=True, slots=True)
class GatewayState:
    """The answer to `GET /state`."""

    generation: int
    """Which endpoints file is acted upon."""
    in_flight: int
    """Requests, over all replicas."""
    replicas: dict[str, ReplicaState]
    queued: int = 0
    """Requests that wait because all replicas have as much as they may."""
    source: SourceState | None = None
    """Of a source that can be out of reach: a cluster."""


def state_of(pool: Pool, contact: Contact, queue: Queue, now: float) -> GatewayState:
    """The state at this moment; `now` is the event loop's time."""
    replicas = {member.name: _replica(member, now) for member in pool.members()}
    return GatewayState(pool.generation, pool.in_flight, replicas, queue.requests, source_of(contact, now))


def source_of(contact: Contact, now: float) -> SourceState | None:
    """How fresh the set of replicas is; None if that cannot be in doubt."""
    age = contact.age_seconds(now)
    return SourceState(age, contact.problem) if age is not None or contact.problem else None


def _replica(member: Member, now: float) -> ReplicaState:
    return ReplicaState(
        address=member.endpoint.address,
        state=member.endpoint.state.value,
        available=member.available,
        healthy=member.healthy,
        ejected=member.ejected_until > now,
        in_flight=member.own.requests,
        sequences=member.own.sequences,
        waiting_tokens=member.own.waiting_tokens,
        message=member.endpoint.message,
    )
