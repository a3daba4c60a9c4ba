"""A gateway that a test can look into through its admin socket."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import programs
import wire
from prometheus_client.parser import text_string_to_metric_families
from scripted import Engine


class Scrape:
    """The samples of one scrape."""

    def __init__(self, text: bytes) -> None:
        self._samples = [s for family in text_string_to_metric_families(text.decode()) for s in family.samples]

    def value(self, name: str, /, **labels: str) -> float:
        """The sum of all samples of that name that have these labels; 0 if there is none."""
        return sum(s.value for s in self._samples if s.name == name and labels.items() <= s.labels.items())

    def since(self, before: "Scrape") -> Callable[..., float]:
        """`value` of what was counted after another scrape."""
        return lambda name, /, **labels: self.value(name, **labels) - before.value(name, **labels)

    def labels(self, name: str, label: str) -> set[str]:
        """The values that a label has."""
        return {s.labels[label] for s in self._samples if s.name == name}


@dataclass(frozen=True, slots=True)
class Gateway:
    """A gateway that runs, and its admin socket."""

    program: programs.Program
    admin: str

    @property
    def url(self) -> str:
        return self.program.url

    def scrape(self) -> Scrape:
        return Scrape(wire.ask(self.admin, "GET", "/metrics").body)

    def state(self) -> dict[str, Any]:
        return dict(wire.ask(self.admin, "GET", "/state").json())

    def wait_until_idle(self) -> None:
        programs.wait_until(lambda: self.state()["in_flight"] == 0, "nothing is in flight")

    def lines(self, count: int, mark: str = "/v1/") -> list[str]:
        """The lines of the log with `mark`, once there are so many."""
        programs.wait_until(lambda: len(self._lines(mark)) >= count, f"{count} lines with {mark}")
        return self._lines(mark)

    def _lines(self, mark: str) -> list[str]:
        return [line for line in self.program.output().splitlines() if mark in line]


@contextlib.contextmanager
def gateway(directory: Path, *engines: Engine, flags: tuple[str, ...] = ()) -> Iterator[Gateway]:
    """A gateway before these engines. Nothing is in flight when the block ends."""
    replicas = [word for engine in engines for word in ("--replica", engine.url)]
    socket = directory / "admin.sock"
    with programs.gateway(directory, *replicas, "--admin-socket", str(socket), *flags) as program:
        running = Gateway(program, f"unix:{socket}")
        yield running
        running.wait_until_idle()
