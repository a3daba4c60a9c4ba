"""What a replay has shown, as figures and as a table. Pure: it measures nothing."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from dp_vllm.replay.fleet import Answer


@dataclass(frozen=True, slots=True)
class Row:
    """A trace under one policy. Times are seconds after a request came."""

    hit_rate: float
    """Prompt tokens that were found in a cache, as a share of all, 0 to 1."""
    of_ideal: float | None
    """The hit rate as a share of the ideal one; None where nothing can be hit."""
    first_mean_seconds: float
    """Until the first token."""
    first_p50_seconds: float
    first_p90_seconds: float
    first_p99_seconds: float
    per_token_mean_seconds: float
    """For each token after the first, the mean over requests."""
    total_p50_seconds: float
    """Until the last token."""
    total_p99_seconds: float
    busiest: float
    """Share of the requests that the replica with the most of them had, 0 to 1."""


@dataclass(frozen=True, slots=True)
class Report:
    """A trace under each policy."""

    requests: int
    seconds: float
    """From the first request to the last."""
    replicas: int
    load: float | None
    """All prompts, cached or not, as a share of what the replicas can read in that time; None if all came at once. Far
    above 1 every policy only shows how long its queues grow."""
    ideal: float
    """The hit rate of one cache for all replicas."""
    policies: Mapping[str, Row]


def row(answers: Sequence[Answer], ideal: float) -> Row:
    """The figures of one replay."""
    first = sorted(answer.first_seconds for answer in answers)
    total = sorted(answer.total_seconds for answer in answers)
    steps = [
        (answer.total_seconds - answer.first_seconds) / (answer.completion_tokens - 1)
        for answer in answers
        if answer.completion_tokens > 1
    ]
    hit_rate = sum(answer.cached_tokens for answer in answers) / sum(answer.prompt_tokens for answer in answers)
    return Row(
        hit_rate=hit_rate,
        of_ideal=hit_rate / ideal if ideal else None,
        first_mean_seconds=sum(first) / len(first),
        first_p50_seconds=quantile(first, 0.5),
        first_p90_seconds=quantile(first, 0.9),
        first_p99_seconds=quantile(first, 0.99),
        per_token_mean_seconds=sum(steps) / len(steps) if steps else 0.0,
        total_p50_seconds=quantile(total, 0.5),
        total_p99_seconds=quantile(total, 0.99),
        busiest=max(Counter(answer.replica for answer in answers).values()) / len(answers),
    )


def quantile(ordered: Sequence[float], share: float) -> float:
    """The least of these values that at least such a share of them does not exceed."""
    return ordered[math.ceil(share * len(ordered)) - 1]


_HEAD: Final = (
    *("policy", "hit rate", "of ideal", "first token: mean", "p50", "p90", "p99"),
    *("ms a token", "to the end: p50", "p99", "busiest"),
)


def as_text(report: Report) -> str:
    """What was replayed, and a line for each policy; times in seconds where nothing else is said."""
    told = f"{report.requests:,} requests in {report.seconds:,.0f} s to {report.replicas} replicas"
    if report.load is not None:
        told += f": prompts alone are {report.load:.2f} of what these can read"
    told += f"; one cache for all would hit {report.ideal:.3f}"
    return told + "\n\n" + _columns([_HEAD, *(_words(name, row) for name, row in report.policies.items())])


def _words(name: str, row: Row) -> tuple[str, ...]:
    first = (row.first_mean_seconds, row.first_p50_seconds, row.first_p90_seconds, row.first_p99_seconds)
    return (
        name,
        f"{row.hit_rate:.3f}",
        "-" if row.of_ideal is None else f"{row.of_ideal:.3f}",
        *(f"{seconds:.2f}" for seconds in first),
        f"{row.per_token_mean_seconds * 1000:.1f}",
        *(f"{seconds:.1f}" for seconds in (row.total_p50_seconds, row.total_p99_seconds)),
        f"{row.busiest:.3f}",
    )


def _columns(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            [line[0].ljust(widths[0]), *(word.rjust(width) for word, width in zip(line[1:], widths[1:], strict=True))]
        )
        for line in lines
    )
