"""Tells the gateway, and whoever looks into the run's directory, what the children are doing.

It must not decide anything: it writes what it is shown, and only when that differs from what stands there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from dp_vllm import endpoints
from dp_vllm.endpoints import Endpoint, EndpointSet, State
from dp_vllm.local import run, words
from dp_vllm.local.child import Child
from dp_vllm.local.deployment import Deployment
from dp_vllm.local.run import Guarded, Record


class Publisher:
    """The one writer of the endpoints file and of the run's record."""

    def __init__(self, deployment: Deployment, record: Record) -> None:
        self._directory = deployment.directory
        self._published = EndpointSet(0, ())
        self._record = record
        self._draining_since: dict[str, int] = {}

    def publish(
        self,
        gateway: Child,
        replicas: Sequence[Child],
        elsewhere: tuple[Endpoint, ...] = (),
        cards: tuple[str, ...] = (),
    ) -> tuple[Endpoint, ...]:
        """Write what changed; the endpoints that are here. `cards` are the replicas' GPUs."""
        here = tuple(self._endpoint(replica) for replica in replicas)
        now = here + elsewhere
        if now != self._published.endpoints:
            self._published = EndpointSet(self._published.generation + 1, now)
            endpoints.write(self._directory.endpoints, self._published)
        self._draining_since = {
            endpoint.name: self._draining_since.get(endpoint.name, self._published.generation)
            for endpoint in now
            if endpoint.state is State.DRAINING
        }
        children = {child.name: child.pids for child in (gateway, *replicas)}
        self._write_record({name: pids for name, pids in children.items() if pids is not None}, cards)
        return here

    @property
    def generation(self) -> int:
        """Of what stands in the endpoints file."""
        return self._published.generation

    @property
    def draining(self) -> Mapping[str, int]:
        """The replicas that the file says get no more requests, and the generation since which it does."""
        return self._draining_since

    def _endpoint(self, replica: Child) -> Endpoint:
        return Endpoint(
            name=replica.name,
            address=replica.address,
            incarnation=str(replica.starts),
            state=replica.state,
            message=_message(replica),
            models=replica.models,
        )

    def _write_record(self, children: dict[str, Guarded], cards: tuple[str, ...]) -> None:
        record = replace(self._record, children=children, cards=cards)
        if record != self._record or not self._directory.run.exists():
            self._record = record
            run.write(self._directory, self._record)


def _message(replica: Child) -> str:
    label = f"replica {replica.name}"
    if replica.observed.stop is not None:
        return words.for_clients_stopped(label, replica.observed.stop.then)
    if replica.state is State.STARTING:
        return words.for_clients_starting(label, replica.message)
    if replica.state is State.DOWN:
        end = replica.observed.ends[-1] if replica.observed.ends else None
        return words.for_clients_down(label, end, for_good=replica.stays_down)
    return ""
