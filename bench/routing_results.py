"""What a replay through one gateway has shown, as figures, as a table and as JSON. Pure: it measures nothing."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean
from typing import Final

from bench.results import columns
from bench.routing_fleet import Counts
from bench.routing_load import Answer
from bench.workloads import Workload
from dp_vllm.replay.trace import ideal_hits

OURS: Final = "dp-vllm"
"""What the names of our own gateways begin with."""

LATE_SHARE: Final = 0.1
"""How late the client may be with one request in a hundred, as a share of the mean first-token time."""
BUSY_SHARE: Final = 0.95
"""How busy the machine may be."""


@dataclass(frozen=True, slots=True)
class Row:
    """One workload through one gateway. Times are the trace's seconds."""

    hit_rate: float
    """Tokens that the engines found in their caches, as a share of the trace's prompt tokens, 0 to 1."""
    first_mean_seconds: float
    first_p50_seconds: float
    first_p90_seconds: float
    first_p99_seconds: float
    total_p50_seconds: float
    total_p99_seconds: float
    prompt_tokens: int
    """As the engines counted them, with those of the chat template."""
    requests: int
    failed: Mapping[str, int]
    """Requests without a whole answer, by what was seen instead."""
    busiest: float
    """Share of the requests that the engine with the most of them had, 0 to 1."""
    late_p99_seconds: float
    """How late the client itself was."""
    machine: float
    """How busy this machine was, 0 to 1."""

    @property
    def void(self) -> str:
        """Why the times say nothing of the gateway; empty if they do."""
        if self.late_p99_seconds > LATE_SHARE * self.first_mean_seconds:
            return f"the client was {self.late_p99_seconds:.2f} s late"
        if self.machine > BUSY_SHARE:
            return f"the machine was {self.machine:.0%} busy"
        return ""


@dataclass(frozen=True, slots=True)
class Bound:
    """What no gateway can be better than: one cache for all engines, and an engine for each prompt."""

    hit_rate: float
    first_seconds: Sequence[float]
    """How long each prompt takes that has an engine for itself, in order: what is not cached, and nothing else."""


@dataclass(frozen=True, slots=True)
class Case:
    """One workload through every gateway."""

    title: str
    speed: float
    """How many times faster than in the trace it was replayed."""
    bound: Bound
    rows: Mapping[str, Row]
    failed: Mapping[str, str] = field(default_factory=dict)
    """Gateways that did not work, and how."""


@dataclass(frozen=True, slots=True)
class Results:
    """Everything that one run found."""

    versions: Mapping[str, str]
    cases: Sequence[Case]
    missing: Mapping[str, str]
    """What cannot be had here, and why."""


def bound(workload: Workload, engines: int, prefill_tokens_per_second: float) -> Bound:
    """What there is to be had in a workload before so many engines."""
    hits = ideal_hits(workload.requests, workload.block_tokens, workload.cache_blocks * engines)
    prompts = [asked.prompt_tokens for asked in workload.requests]
    rest = sorted(prompt - hit for prompt, hit in zip(prompts, hits, strict=True))
    return Bound(sum(hits) / sum(prompts), [tokens / prefill_tokens_per_second for tokens in rest])


def row(workload: Workload, answers: Sequence[Answer], engines: Sequence[Counts], machine: float) -> Row:
    """The figures of one replay."""
    speed = workload.speed
    whole = [answer for answer in answers if not answer.failure]
    first = sorted(answer.first_seconds * speed for answer in whole) or [0.0]
    total = sorted(answer.total_seconds * speed for answer in whole) or [0.0]
    late = sorted(answer.sent_seconds * speed for answer in whole) or [0.0]
    served = [engine.requests for engine in engines]
    return Row(
        hit_rate=sum(engine.cached_tokens for engine in engines)
        / sum(asked.prompt_tokens for asked in workload.requests),
        first_mean_seconds=sum(first) / len(first),
        first_p50_seconds=_quantile(first, 0.5),
        first_p90_seconds=_quantile(first, 0.9),
        first_p99_seconds=_quantile(first, 0.99),
        total_p50_seconds=_quantile(total, 0.5),
        total_p99_seconds=_quantile(total, 0.99),
        prompt_tokens=sum(engine.prompt_tokens for engine in engines),
        requests=len(answers),
        failed=Counter(answer.failure for answer in answers if answer.failure),
        busiest=max(served) / sum(served) if sum(served) else 0.0,
        late_p99_seconds=_quantile(late, 0.99),
        machine=machine,
    )


def as_json(results: Results) -> dict[str, object]:
    """All figures."""
    cases = [
        asdict(case)
        | {"bound": {"hit_rate": case.bound.hit_rate, "first_mean_seconds": fmean(case.bound.first_seconds)}}
        | {"rows": {name: asdict(row) | {"void": row.void} for name, row in case.rows.items()}}
        for case in results.cases
    ]
    return asdict(results) | {"cases": cases}


def as_text(results: Results) -> str:
    """A table for each workload, how ours compares with the best of the others in it, then what is missing."""
    versions = ", ".join(f"{name} {version}" for name, version in results.versions.items() if version)
    missing = [f"missing: {what}: {why}" for what, why in results.missing.items()]
    return "\n\n".join([*map(_case, results.cases), "\n".join([versions, *missing])])


def _case(case: Case) -> str:
    notes = [_compared(case, name) for name in _ours(case)]
    for name, row in case.rows.items():
        notes += [f"{name}: {count} of {row.requests} failed: {what}" for what, count in row.failed.items()]
        notes += [f"void: {name}: {row.void}"] if row.void else []
    notes += [f"failed: {name}: {how[-600:]}" for name, how in case.failed.items()]
    return "\n".join([_table(case), *filter(None, notes)])


def _table(case: Case) -> str:
    times = ["first token", "p50", "p90", "p99", "in all p50", "p99"]
    lines = [[f"{case.title}, x{case.speed:g}", "hit rate", "of ideal", *times, "failed", "busiest", "late p99", "CPU"]]
    for name, row in case.rows.items():
        seconds = (
            row.first_mean_seconds,
            *(row.first_p50_seconds, row.first_p90_seconds, row.first_p99_seconds),
            *(row.total_p50_seconds, row.total_p99_seconds),
        )
        lines.append(
            [
                name,
                f"{row.hit_rate:.3f}",
                f"{row.hit_rate / case.bound.hit_rate:.2f}" if case.bound.hit_rate else "-",
                *(f"{value:.2f}" for value in seconds),
                str(sum(row.failed.values())),
                f"{row.busiest:.0%}",
                f"{row.late_p99_seconds:.2f}",
                f"{row.machine:.0%}",
            ]
        )
    first = case.bound.first_seconds
    least = [fmean(first), *(_quantile(first, share) for share in (0.5, 0.9, 0.99))]
    shown = ["(one cache, no queue)", f"{case.bound.hit_rate:.3f}", "", *(f"{seconds:.2f}" for seconds in least)]
    return columns([*lines, shown + [""] * (len(lines[0]) - len(shown))])


def _ours(case: Case) -> list[str]:
    return [name for name in case.rows if name.startswith(OURS)]


def _compared(case: Case, name: str) -> str:
    """Our first-token times as parts of the best other's, which is another one for each of them."""
    others = [row for other, row in case.rows.items() if other not in _ours(case)]
    mine = case.rows[name]
    best_mean = min((row.first_mean_seconds for row in others), default=0.0)
    best_p99 = min((row.first_p99_seconds for row in others), default=0.0)
    if not best_mean or not best_p99:
        return ""
    mean, p99 = mine.first_mean_seconds / best_mean, mine.first_p99_seconds / best_p99
    return f"{name}: first token, x the best of the others: mean {mean:.2f}, p99 {p99:.2f}"


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
