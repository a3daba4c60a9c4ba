"""The parts of the gateways' benchmark: what is run, in which order, over which programs."""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import uvloop

from bench import flame, install, load, running, scenarios
from bench.cpu import CpuTime
from bench.load import Address, Failed
from bench.peers import Engines, Peer
from bench.results import Row, Spread
from bench.running import Running
from bench.scenarios import Duration, Latency, ManyStreams, Window

ENGINES: Final = 4

FOREVER: Final = 1_000_000
"""Tokens of a stream that the client leaves before they are all there."""

OPENING_SECONDS: Final = 10.0
"""How long opening many streams may take, so that the first is still open with the last."""

FAILURES: Final = (Failed, OSError, TimeoutError, AssertionError)
"""What a gateway that does not work raises; AssertionError: it did not start."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Scenario:
    """One thing whose cost is measured of every gateway."""

    title: str
    count: int
    """Connections, or streams."""
    prompt_bytes: int
    stream: bool = False

    def run(self, gateway: Running, duration: Duration) -> Window:
        request = load.chat(self.prompt_bytes, stream=self.stream, max_tokens=FOREVER if self.stream else 8)
        measure = scenarios.streams if self.stream else scenarios.requests
        return uvloop.run(measure(gateway.address, request, self.count, gateway.usage.cpu, duration))


SCENARIOS: Final = {
    "request-200": Scenario("request, 200-byte prompt, 32 connections", 32, 200),
    "request-16k": Scenario("request, 16 kB prompt, 32 connections", 32, 16_000),
    "chunks-100": Scenario("streamed chunk, 100 streams", 100, 200, stream=True),
    "chunks-400": Scenario("streamed chunk, 400 streams", 400, 200, stream=True),
}


@dataclass(frozen=True, slots=True)
class Plan:
    """What was asked for on the command line."""

    peers: Mapping[str, Peer]
    scenarios: Mapping[str, Scenario]
    rounds: int
    duration: Duration
    streams: int
    interval_seconds: float
    """Between two chunks of a stream."""
    gateway_core: int
    load_core: int
    folder: Path
    """Where configurations, sockets and logs are put."""


class Benchmark:
    """One run of the parts that are asked for, and what went wrong in them."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self.versions: dict[str, str] = {}
        self.missing: dict[str, str] = {}
        """What cannot be had here, and why."""
        self.failed: dict[str, str] = {}
        """What did not work, and how."""

    def cost(self) -> dict[str, dict[str, Row]]:
        """CPU time of every gateway in every scenario. All stay started, and take turns within each round."""
        with self._engines() as behind, ExitStack() as stack:
            gateways = [
                gateway for name in self._plan.peers if (gateway := stack.enter_context(self._started(name, behind)))
            ]
            return {name: self._rounds(name, scenario, gateways) for name, scenario in self._plan.scenarios.items()}

    def many_streams(self) -> dict[str, ManyStreams]:
        """Streams to their end, through a fresh process of each gateway: for its memory."""
        duration = self._plan.duration
        tokens = round((OPENING_SECONDS + duration.warm_seconds + duration.seconds) / self._plan.interval_seconds)

        def measure(gateway: Running) -> ManyStreams:
            SCENARIOS["request-200"].run(gateway, Duration(0, 1))
            observer = scenarios.Observer(gateway.usage.cpu, gateway.usage.resident_bytes, gateway.in_flight)
            return uvloop.run(scenarios.many_streams(gateway.address, self._plan.streams, tokens, duration, observer))

        with self._engines() as behind:
            return self._each(f"{self._plan.streams} streams", behind, measure)

    def latency(self) -> tuple[float, dict[str, Latency]]:
        """Requests a second at which ours uses half of its core, and what they take with each gateway and with none."""
        request = load.chat(200)
        duration = self._plan.duration
        with self._engines() as behind:
            pace = self._half_load(behind)
            direct = Address("127.0.0.1", behind.ports[0])
            none = uvloop.run(scenarios.latency(direct, request, pace, CpuTime, duration))
            each = self._each(
                f"{pace:.0f} requests/s",
                behind,
                lambda it: uvloop.run(scenarios.latency(it.address, request, pace, it.usage.cpu, duration)),
            )
        return pace, {"no gateway": none, **each}

    def profile(self, output: Path, *, native: bool) -> None:
        """Watch the first gateway in the first scenario, and write what py-spy saw."""
        name, (_, scenario) = next(iter(self._plan.peers)), next(iter(self._plan.scenarios.items()))
        duration = self._plan.duration
        with self._engines() as behind, self._started(name, behind) as gateway:
            if gateway is None:
                return
            with self._noting(f"profile of {name}"):
                scenario.run(gateway, duration)
                with flame.recording(gateway.pid, output, duration.seconds, native=native):
                    scenario.run(gateway, Duration(duration.warm_seconds, duration.seconds + 1))
                say(f"{output}: {name}, {scenario.title}")

    def _half_load(self, behind: Engines) -> float:
        name = next((name for name in self._plan.peers if name.startswith("dp-vllm")), next(iter(self._plan.peers)))
        with self._started(name, behind) as gateway:
            if gateway is None:
                raise Failed(f"{name} does not run, so the pace is not known")
            window = SCENARIOS["request-200"].run(gateway, self._plan.duration)
        return 0.5 * window.work / window.cpu_seconds

    def _rounds(self, title: str, scenario: Scenario, gateways: list[Running]) -> dict[str, Row]:
        windows: dict[str, list[Window]] = {gateway.name: [] for gateway in gateways}
        for number in range(self._plan.rounds):
            say(f"{title}, round {number + 1} of {self._plan.rounds}")
            first = number % max(1, len(gateways))
            for gateway in gateways[first:] + gateways[:first]:
                with self._noting(f"{gateway.name} in {title}"):
                    windows[gateway.name].append(scenario.run(gateway, self._plan.duration))
        return {name: _row(done) for name, done in windows.items() if len(done) == self._plan.rounds}

    def _each(self, title: str, behind: Engines, measure: Callable[[Running], T]) -> dict[str, T]:
        found: dict[str, T] = {}
        for name in self._plan.peers:
            say(f"{title}: {name}")
            with self._started(name, behind) as gateway:
                if gateway is not None:
                    with self._noting(f"{name}, {title}"):
                        found[name] = measure(gateway)
        return found

    @contextmanager
    def _engines(self) -> Iterator[Engines]:
        plan = self._plan
        with running.engines(ENGINES, plan.interval_seconds, plan.folder, plan.load_core) as behind:
            yield behind

    @contextmanager
    def _started(self, name: str, behind: Engines) -> Iterator[Running | None]:
        """A gateway; None if it cannot be had or does not start, which is noted."""
        plan = self._plan
        gateway: Running | None = None
        with ExitStack() as stack:
            with self._noting(name):
                gateway = stack.enter_context(
                    running.gateway(name, plan.peers[name], behind, plan.folder / name, plan.gateway_core)
                )
                self.versions[name] = gateway.version
            yield gateway

    @contextmanager
    def _noting(self, what: str) -> Iterator[None]:
        try:
            yield
        except install.Missing as reason:
            self.missing[what] = str(reason)
            say(f"{what} is missing: {reason}")
        except FAILURES as failure:
            self.failed[what] = str(failure) or type(failure).__name__
            say(f"{what} failed: {self.failed[what][-400:]}")


def say(what: str) -> None:
    """Tell how far the run is, beside the results."""
    print(f"  {what}", file=sys.stderr, flush=True)


def _row(windows: list[Window]) -> Row:
    def spread(of: Callable[[Window], Any]) -> Spread:
        return Spread(tuple(of(window) for window in windows))

    return Row(
        spread(lambda window: window.microseconds),
        spread(lambda window: window.work / window.wall_seconds),
        spread(lambda window: window.busy),
        spread(lambda window: window.others),
    )
