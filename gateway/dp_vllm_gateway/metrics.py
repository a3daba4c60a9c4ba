"""What the gateway counts of the requests that passed through it.

Counting one costs about a microsecond: plain integers, fixed buckets, no label objects. The words of Prometheus are
`exposition`'s.
"""

from bisect import bisect_left
from collections.abc import Collection
from typing import Final

from dp_vllm_gateway.call import Call

FIRST_TOKEN_BOUNDS: Final = (
    *(0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0),
)
"""Seconds. From 10 ms on these are the engine's bounds too, so that both can be shown in one picture."""

REQUEST_BOUNDS: Final = (
    *(0.01, 0.05, 0.1, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0),
    *(40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)
"""Seconds; likewise from 300 ms on."""

OTHER_ROUTE: Final = "other"
"""Stands for all paths that the route table does not name: clients choose paths, so there is no end of them."""


class Histogram:
    """Counts of values by upper bound."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        """Count a value; one above all bounds too."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class Times:
    """How long one route's requests took, in seconds."""

    __slots__ = ("first_token", "request")

    def __init__(self) -> None:
        self.first_token = Histogram(FIRST_TOKEN_BOUNDS)
        """Of streams only: nobody sees the first token of another answer."""
        self.request = Histogram(REQUEST_BOUNDS)


class Tally:
    """What one replica answered, or the gateway itself."""

    __slots__ = ("broken", "chunks", "completion_tokens", "prompt_tokens", "requests")

    def __init__(self) -> None:
        self.requests: dict[tuple[str, int], int] = {}
        """By route and status; 499 stands for a client that left."""
        self.broken = 0
        """Answers of which the client has only a part."""
        self.chunks = 0
        self.prompt_tokens = 0
        self.completion_tokens = 0


class Metrics:
    """The one owner of these counts."""

    def __init__(self) -> None:
        self.tallies: dict[str, Tally] = {}
        """By replica: the last one that a request was sent to, "" if it was sent to none."""
        self.times: dict[str, Times] = {}
        """By route."""
        self.queued = Histogram(REQUEST_BOUNDS)
        """Seconds that requests waited for a replica with room, of those that had to."""
        self.attempts = 0
        self.retries = 0

    def record(self, call: Call) -> None:
        """Count a request that has ended."""
        route = call.route or OTHER_ROUTE
        times = self.times.get(route)
        if times is None:
            times = self.times[route] = Times()
        times.request.add(call.ended_at - call.began_at)
        if call.stream and call.answered_at:
            times.first_token.add(call.answered_at - call.began_at)
        tally = self.tallies.get(call.replica)
        if tally is None:
            tally = self.tallies[call.replica] = Tally()
        key = (route, call.status)
        tally.requests[key] = tally.requests.get(key, 0) + 1
        tally.broken += call.broken
        tally.chunks += call.chunks
        tally.prompt_tokens += call.prompt_tokens
        tally.completion_tokens += call.completion_tokens
        if call.queued_seconds:
            self.queued.add(call.queued_seconds)
        if call.attempts:
            self.attempts += call.attempts
            self.retries += call.attempts - 1

    def keep(self, replicas: Collection[str]) -> None:
        """Drop what all other replicas counted: where replicas come and go, their names have no end either."""
        for name in [name for name in self.tallies if name and name not in replicas]:
            del self.tallies[name]
