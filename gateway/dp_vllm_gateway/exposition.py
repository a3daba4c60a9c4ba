"""What `/metrics` says: the gateway's own series, its process's, and the engines'."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Final

from prometheus_client import ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from dp_vllm.endpoints import State
from dp_vllm_gateway import engine_metrics
from dp_vllm_gateway.body import Bodies
from dp_vllm_gateway.discovery.contact import Contact
from dp_vllm_gateway.member import Member
from dp_vllm_gateway.metrics import Histogram, Metrics, Times
from dp_vllm_gateway.pool import Pool
from dp_vllm_gateway.queue import Queue
from dp_vllm_gateway.workers.errors import MessageErrors

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

ALL: Final = "all"
"""Stands as `replica` where a request was sent to every one."""

_Values = Iterable[tuple[str, float]]
"""By replica."""


class Exposition:
    """Asks the owners of all that is counted, each time that a scrape wants to know."""

    def __init__(self, metrics: Metrics, pool: Pool, bodies: Bodies, contact: Contact, queue: Queue) -> None:
        self._metrics = metrics
        self._pool = pool
        self._bodies = bodies
        self._contact = contact
        self._queue = queue
        self._process = ProcessCollector(registry=None)
        self.message_errors: MessageErrors | None = None
        """Of messages to and from other gateway processes, if there are any."""
        self.websockets: Mapping[str, int] = {}
        """How many are open, by replica."""
        self.peers: Callable[[], int] | None = None
        """How many other gateways this one tells what it does, if it does so at all."""

    def own(self, now: float) -> bytes:
        """What this process counts and takes, in Prometheus' text format. `now` is the event loop's time."""
        members = self._pool.members()
        own = generate_latest(_Collected([*self._own(members, now), *self._process.collect()]))
        self._metrics.keep({member.name for member in members} | {ALL})  # what the others counted has now been told
        return own

    def engines(self) -> bytes:
        """What the engines count, as last read."""
        members = self._pool.members()
        return engine_metrics.merge({member.name: member.scrape for member in members if _lives(member)})

    def _own(self, members: Sequence[Member], now: float) -> Iterator[Metric]:
        yield from _requests(self._metrics)
        yield from _times(self._metrics.times)
        yield from _replicas(members, now)
        yield _gauge(
            "websockets", "WebSockets that are open", ((m.name, self.websockets.get(m.name, 0)) for m in members)
        )
        yield GaugeMetricFamily("dp_vllm_body_bytes", "Bytes of request bodies held", self._bodies.held_bytes)
        yield GaugeMetricFamily("dp_vllm_queue_requests", "That wait for a replica with room", self._queue.requests)
        text = "Requests that left a full queue for one of an API key of which fewer waited"
        yield CounterMetricFamily("dp_vllm_queue_evictions", text, self._queue.evictions)
        text = "Seconds that requests waited for a replica with room, of those that had to"
        queued = HistogramMetricFamily("dp_vllm_queue_seconds", text)
        queued.add_metric((), _buckets(self._metrics.queued), self._metrics.queued.total)
        yield queued
        yield GaugeMetricFamily("dp_vllm_endpoints_generation", "The set of endpoints in use", self._pool.generation)
        if self.peers is not None:
            text = "Other gateways of the model that tell this one what they do"
            yield GaugeMetricFamily("dp_vllm_gateway_peers", text, self.peers())
        if self.message_errors is not None:
            text = "Messages between gateway processes that could not be written, read or applied"
            yield CounterMetricFamily("dp_vllm_gateway_message_errors", text, self.message_errors.count)
        age = self._contact.age_seconds(now)
        if age is not None:
            yield GaugeMetricFamily(
                "dp_vllm_endpoints_age_seconds", "Since the API server last said something of the replicas", age
            )


class _Collected(Collector):
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _lives(member: Member) -> bool:
    """Whether the last look at the endpoint's metrics tells of an engine that is still there."""
    return member.healthy and member.endpoint.state in (State.READY, State.UNREADY, State.DRAINING)


def _requests(metrics: Metrics) -> Iterator[Metric]:
    text = "Requests that have ended, by route, status (499: the client left) and the replica that was tried last"
    requests = CounterMetricFamily("dp_vllm_requests", text, labels=("route", "status", "replica"))
    for replica, tally in metrics.tallies.items():
        for (route, status), count in tally.requests.items():
            requests.add_metric((route, str(status), replica), count)
    yield requests
    yield CounterMetricFamily("dp_vllm_attempts", "Times that a request was sent to a replica", metrics.attempts)
    yield CounterMetricFamily("dp_vllm_retries", "Attempts that were not a request's first", metrics.retries)
    tallies = [(name, tally) for name, tally in metrics.tallies.items() if name]
    yield _counter("broken_answers", "Answers of which clients got only a part", ((n, t.broken) for n, t in tallies))
    yield _counter("chunks", "Pieces of answers, passed on as they came", ((n, t.chunks) for n, t in tallies))
    yield _counter("prompt_tokens", "As the engines counted them", ((n, t.prompt_tokens) for n, t in tallies))
    yield _counter("completion_tokens", "As the engines counted them", ((n, t.completion_tokens) for n, t in tallies))


def _times(times: dict[str, Times]) -> Iterator[Metric]:
    text = "Seconds from a stream's request to its first event"
    first_token = HistogramMetricFamily("dp_vllm_time_to_first_token_seconds", text, labels=("route",))
    text = "Seconds from a request to the end of its answer"
    request = HistogramMetricFamily("dp_vllm_request_seconds", text, labels=("route",))
    for route, took in times.items():
        first_token.add_metric((route,), _buckets(took.first_token), took.first_token.total)
        request.add_metric((route,), _buckets(took.request), took.request.total)
    yield from (first_token, request)


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    bounds = (*map(floatToGoString, histogram.bounds), "+Inf")
    return list(zip(bounds, accumulate(histogram.counts), strict=True))


def _replicas(members: Sequence[Member], now: float) -> Iterator[Metric]:
    yield _gauge("available", "1: healthy and not draining", ((m.name, m.available) for m in members))
    unready = ((m.name, m.available and m.endpoint.state is State.UNREADY) for m in members)
    yield _gauge("used_unready", "1: used, not being called ready, because no other one serves", unready)
    yield _gauge("ejected", "1: left out, could not be reached", ((m.name, m.ejected_until > now) for m in members))
    yield _gauge("requests", "Requests that it works on", ((m.name, m.requests) for m in members))
    yield _gauge("sequences", "Sequences that these ask for", ((m.name, m.own.sequences) for m in members))
    yield _gauge("waiting_tokens", "Prompt tokens not yet answered", ((m.name, m.own.waiting_tokens) for m in members))
    yield _counter("ejections", "Times that a replica was left out", ((m.name, m.ejections) for m in members))


def _counter(name: str, text: str, values: _Values) -> Metric:
    family = CounterMetricFamily(f"dp_vllm_{name}", text, labels=("replica",))
    for replica, value in values:
        family.add_metric((replica,), value)
    return family


def _gauge(name: str, text: str, values: _Values) -> Metric:
    family = GaugeMetricFamily(f"dp_vllm_replica_{name}", text, labels=("replica",))
    for replica, value in values:
        family.add_metric((replica,), value)
    return family
