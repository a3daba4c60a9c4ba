"""One look at a run: what its supervisor says, what its gateway says, and what both have counted."""

import re
from collections import defaultdict
from dataclasses import dataclass
from typing import Final

import msgspec

from dp_vllm.endpoints import State
from dp_vllm.errors import UserError
from dp_vllm.local import runs
from dp_vllm.local.operate import unix_http
from dp_vllm.local.operate.unix_http import Answer, Silent
from dp_vllm.local.probe import GatewayState
from dp_vllm.local.runs import Found
from dp_vllm.local.standing import Refusal, Replica, Run

_MOST: Final = 2.0**53
"""Of one sample."""

_SAMPLE: Final = re.compile(
    rb"^(dp_vllm_requests_total|vllm:generation_tokens_total|vllm:num_requests_waiting)\{(.*)\} (\S+)$", re.MULTILINE
)
_REPLICA: Final = re.compile(rb'(?:^|,)replica="([^"]*)"')


@dataclass(frozen=True, slots=True)
class Look:
    """Both accounts."""

    run: Run
    gateway: GatewayState | None
    """None if it does not answer."""

    def replica(self, name: str) -> Replica | None:
        """None if there is none of that name."""
        return next((one for one in self.run.replicas if one.name == name), None)

    def in_flight(self, name: str) -> int:
        """Requests that the gateway has at a replica."""
        known = self.gateway.replicas.get(name) if self.gateway else None
        return known.in_flight if known else 0

    def serves(self, name: str) -> bool:
        """Whether requests are sent to this life of the replica."""
        replica, gateway = self.replica(name), self.gateway
        if replica is None or gateway is None or gateway.generation < self.run.generation:
            return False
        return replica.state is State.READY and gateway.uses(name)

    @property
    def serving(self) -> list[str]:
        """The replicas that requests are sent to."""
        return [one.name for one in self.run.replicas if self.serves(one.name)]


@dataclass(frozen=True, slots=True)
class Counts:
    """What was counted of one replica."""

    requests: int = 0
    """That have ended, since the gateway began."""
    generated_tokens: int = 0
    """Since its engine began, as last read by the gateway."""
    waiting: int = 0
    """Requests in the engine that it has not begun."""


def at(found: Found) -> Look:
    """Look at a run. Raises UserError if it is gone, or does not answer."""
    return _looked(found, _asked(found, "/state"))


def order(found: Found, target: str, what: msgspec.Struct) -> Look:
    """Give an order, and look at what became of the run. Raises UserError with the reason if it is refused."""
    return _looked(found, _asked(found, target, msgspec.json.encode(what)))


def counts(found: Found) -> dict[str, Counts]:
    """What was counted, by replica; empty if the gateway does not answer."""
    try:
        return read_counts(unix_http.ask(found.directory.admin_socket, "/metrics").body)
    except Silent:
        return {}


def read_counts(metrics: bytes) -> dict[str, Counts]:
    """From the gateway's metrics, which have the engines' too."""
    sums: dict[str, dict[bytes, float]] = defaultdict(lambda: defaultdict(float))
    for sample in _SAMPLE.finditer(metrics):
        replica = _REPLICA.search(sample[2])
        if replica is not None:
            sums[replica[1].decode("utf-8", "replace")][sample[1]] += _value(sample[3])
    return {
        name: Counts(
            requests=int(of[b"dp_vllm_requests_total"]),
            generated_tokens=int(of[b"vllm:generation_tokens_total"]),
            waiting=int(of[b"vllm:num_requests_waiting"]),
        )
        for name, of in sums.items()
    }


def _value(sample: bytes) -> float:
    """A sample's value; 0 if it is none, as NaN."""
    try:
        value = float(sample)
    except ValueError:
        return 0.0
    return min(value, _MOST) if value > 0 else 0.0


def _asked(found: Found, target: str, body: bytes | None = None) -> Answer:
    runs.demand_there(found)
    path = found.directory.supervisor_socket
    try:
        return unix_http.ask(path, target, body)
    except Silent as silent:
        runs.demand_there(found)
        raise UserError(
            f"the supervisor of the run {found.name} does not answer on {path} ({silent}); it has just begun, "
            "has ended or stands still: try again"
        ) from silent


def _looked(found: Found, answer: Answer) -> Look:
    try:
        if answer.status != 200:
            raise UserError(msgspec.json.decode(answer.body, type=Refusal).error)
        run = msgspec.json.decode(answer.body, type=Run)
    except msgspec.DecodeError as error:
        raise UserError(
            f"what answers for the run {found.name} is no supervisor of this version: status {answer.status}, {error}"
        ) from error
    return Look(run, _gateway(found))


def _gateway(found: Found) -> GatewayState | None:
    try:
        return msgspec.json.decode(unix_http.ask(found.directory.admin_socket, "/state").body, type=GatewayState)
    except (Silent, msgspec.DecodeError):
        return None
