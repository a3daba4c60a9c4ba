"""What was found, as tables and as JSON. Pure: it measures nothing."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Final

from bench.scenarios import Latency, ManyStreams

BASES: Final = ("nginx", "vllm-router")
"""Whom the others are compared with."""


@dataclass(frozen=True, slots=True)
class Spread:
    """The same thing measured in several rounds."""

    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)

    def ratio_to(self, base: "Spread") -> float:
        """The median of the rounds' ratios, so that what slowed a whole round down falls out."""
        return statistics.median(mine / theirs for mine, theirs in zip(self.rounds, base.rounds, strict=True))


@dataclass(frozen=True, slots=True)
class Row:
    """The cost of one gateway in one scenario."""

    microseconds: Spread
    """CPU time for one piece of work."""
    per_second: Spread
    busy: Spread
    """Part of its core, 0 to 1."""
    others: Spread
    """Part of that core that was used by other programs: the figures are as good as this is small."""


@dataclass(frozen=True, slots=True)
class Results:
    """Everything that one run found."""

    versions: Mapping[str, str] = field(default_factory=dict)
    cost: Mapping[str, Mapping[str, Row]] = field(default_factory=dict)
    """By scenario, then by gateway; those that failed in a round are not in it."""
    streams: Mapping[str, ManyStreams] = field(default_factory=dict)
    pace_per_second: float = 0.0
    latency: Mapping[str, Latency] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)
    """What cannot be had here, and why."""
    failed: Mapping[str, str] = field(default_factory=dict)
    """What did not work, and how."""


def ratios(rows: Mapping[str, Row], name: str) -> dict[str, float]:
    """How a gateway compares with each base that was measured."""
    return {base: rows[name].microseconds.ratio_to(rows[base].microseconds) for base in BASES if base in rows}


def as_json(results: Results) -> dict[str, object]:
    """All figures, those of every round too."""
    cost = {
        scenario: {name: asdict(row) | {"ratios": ratios(rows, name)} for name, row in rows.items()}
        for scenario, rows in results.cost.items()
    }
    return asdict(results) | {"cost": cost}


def as_text(results: Results, titles: Mapping[str, str]) -> str:
    """One table for each thing that was measured, then what is missing."""
    tables = [cost_table(titles[scenario], rows) for scenario, rows in results.cost.items() if rows]
    if results.streams:
        tables.append(streams_table(results.streams))
    if results.latency:
        tables.append(latency_table(results.pace_per_second, results.latency))
    versions = ", ".join(f"{name} {version}" for name, version in results.versions.items() if version)
    missing = [f"missing: {what}: {why}" for what, why in results.missing.items()]
    failed = [f"failed: {what}: {how[-600:]}" for what, how in results.failed.items()]
    return "\n\n".join([*tables, "\n".join([versions, *missing, *failed])])


def cost_table(title: str, rows: Mapping[str, Row]) -> str:
    bases = [base for base in BASES if base in rows]
    lines = [[title, "us CPU", "min-max", *(f"x {base}" for base in bases), "per second", "of a core", "others"]]
    for name, row in rows.items():
        spent = row.microseconds
        compared = [f"{ratio:.2f}" for ratio in ratios(rows, name).values()]
        figures = [f"{spent.median:.1f}", f"{min(spent.rounds):.1f}-{max(spent.rounds):.1f}", *compared]
        lines.append(
            [name, *figures, f"{row.per_second.median:,.0f}", f"{row.busy.median:.0%}", f"{max(row.others.rounds):.0%}"]
        )
    return columns(lines)


def streams_table(found: Mapping[str, ManyStreams]) -> str:
    head = ["broken", "open", "us CPU a chunk", "of a core", "kB a stream", "MB in all", "in flight", "then"]
    lines = [["streams side by side, to their end", *head]]
    for name, many in found.items():
        memory = [f"{many.bytes_per_stream / 1000:.1f}", f"{many.resident_during_bytes / 1e6:.0f}"]
        flight = ["-" if count is None else str(count) for count in (many.in_flight_during, many.in_flight_after)]
        cost = [f"{many.window.microseconds:.1f}", f"{many.window.busy:.0%}"]
        lines.append([name, f"{many.broken} of {many.streams}", str(many.open_during), *cost, *memory, *flight])
    return columns(lines)


def latency_table(pace_per_second: float, found: Mapping[str, Latency]) -> str:
    none = next(iter(found.values()))
    lines = [[f"latency at {pace_per_second:,.0f} requests/s, ms", "p50", "p99", "added p50", "added p99", "of a core"]]
    for name, latency in found.items():
        p50, p99 = latency.p50_seconds, latency.p99_seconds
        times = [p50, p99, p50 - none.p50_seconds, p99 - none.p99_seconds]
        lines.append([name, *(f"{seconds * 1000:.2f}" for seconds in times), f"{latency.window.busy:.0%}"])
    return columns(lines)


def columns(lines: Sequence[Sequence[str]]) -> str:
    """Words in columns, the first one to the left."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            word.rjust(width) if number else word.ljust(width)
            for number, (word, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )
