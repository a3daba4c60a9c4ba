"""What several workers answer, as one answer. Pure."""

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import msgspec
from prometheus_client.utils import floatToGoString

from dp_vllm_gateway.decisions import MOST, Decision
from dp_vllm_gateway.state import GatewayState
from dp_vllm_gateway.workers.news import Standing

_LEAST: Final = frozenset({"dp_vllm_endpoints_generation", "dp_vllm_replica_available", "process_start_time_seconds"})
_GREATEST: Final = frozenset(
    {"dp_vllm_endpoints_age_seconds", "dp_vllm_replica_ejected", "dp_vllm_replica_used_unready"}
)
"""All other families add up."""

_COUNTED: Final = frozenset({"counter", "histogram"})
_REPLICA: Final = re.compile(r'[{,]replica="([^"]*)"')


@dataclass(slots=True)
class _Family:
    """A family of series, as one text tells it or as the sum of several."""

    name: str
    comments: list[str] = field(default_factory=list)
    kind: str = ""
    samples: dict[str, float] = field(default_factory=dict)
    """By name and labels."""

    def add(self, other: "_Family") -> None:
        """Take in what another worker has of it."""
        for key, value in other.samples.items():
            mine = self.samples.get(key)
            if mine is None:
                self.samples[key] = value
            elif self.name in _LEAST:
                self.samples[key] = min(mine, value)
            elif self.name in _GREATEST:
                self.samples[key] = max(mine, value)
            else:
                self.samples[key] = mine + value

    def lines(self) -> Iterator[str]:
        yield from self.comments
        for key, value in self.samples.items():
            yield f"{key} {floatToGoString(value)}"  # type: ignore[no-untyped-call]


def total(texts: Sequence[bytes]) -> bytes:
    """The sum of several texts in Prometheus' format, without timestamps; each family begins with its comments."""
    families: dict[str, _Family] = {}
    for text in texts:
        for family in _families(text):
            if family.name in families:
                families[family.name].add(family)
            else:
                families[family.name] = family
    return _text(families.values())


def counters(text: bytes) -> bytes:
    """Of a text what only grows."""
    return _text(family for family in _families(text) if family.kind in _COUNTED)


def greatest(one: bytes, other: bytes) -> bytes:
    """The greater of each two counts: what the same worker had counted at two moments."""
    families = {family.name: family for family in _families(one)}
    for family in _families(other):
        samples = families.setdefault(family.name, family).samples
        for key, value in family.samples.items():
            samples[key] = max(samples.get(key, value), value)
    return _text(families.values())


def of_replicas(text: bytes, replicas: Collection[str]) -> bytes:
    """A text without what is told of other replicas than these, but with what is told of all or of none."""
    kept = {*replicas, "", "all"}
    families = list(_families(text))
    for family in families:
        family.samples = {
            key: value
            for key, value in family.samples.items()
            if (found := _REPLICA.search(key)) is None or found[1] in kept
        }
    return _text(families)


def workers(count: int) -> bytes:
    """The series that says how many were asked and answered."""
    name = "dp_vllm_workers"
    return f"# HELP {name} Processes of the gateway that answered\n# TYPE {name} gauge\n{name} {count}\n".encode()


def state(own: GatewayState, others: Sequence[Standing]) -> GatewayState:
    """One worker's state with what the others have in flight; acted upon is what all act upon."""
    replicas = dict(own.replicas)
    for standing in others:
        for load in standing.loads:
            known = replicas.get(load.replica)
            if known is not None:
                replicas[load.replica] = replace(
                    known,
                    in_flight=known.in_flight + load.requests,
                    sequences=known.sequences + load.sequences,
                    waiting_tokens=known.waiting_tokens + load.waiting_tokens,
                )
    return replace(
        own,
        generation=min([own.generation, *(standing.generation for standing in others)]),
        in_flight=own.in_flight + sum(standing.in_flight for standing in others),
        queued=own.queued + sum(standing.queued for standing in others),
        replicas=replicas,
    )


def decisions(answers: Sequence[bytes]) -> list[Decision]:
    """The last decisions of all workers, the oldest first."""
    found = [decision for answer in answers for decision in msgspec.json.decode(answer, type=list[Decision])]
    return sorted(found, key=lambda decision: decision.at)[-MOST:]


def _families(text: bytes) -> Iterator[_Family]:
    family: _Family | None = None
    for line in text.decode().split("\n"):
        if line.startswith("#"):
            _, what, name, *said = line.split(" ", 3)
            if family is None or family.name != name:
                if family is not None:
                    yield family
                family = _Family(name)
            family.comments.append(line)
            if what == "TYPE":
                family.kind = said[0]
        elif family is not None and line:
            key, _, value = line.rpartition(" ")
            family.samples[key] = float(value)
    if family is not None:
        yield family


def _text(families: Collection[_Family] | Iterator[_Family]) -> bytes:
    return "".join(f"{line}\n" for family in families for line in family.lines()).encode()
