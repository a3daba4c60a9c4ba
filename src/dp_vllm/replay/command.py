"""`dp-vllm replay`: what each policy would have made of a trace."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any, Final

import click

from dp_vllm.errors import BadSettings
from dp_vllm.number import Number
from dp_vllm.policy import AHEAD_SECONDS, PREFIX_WEIGHT, Policy
from dp_vllm.replay import report, source, trace
from dp_vllm.replay.fleet import Answer, Arrival, Fleet, Sizes, arrivals
from dp_vllm.replay.report import Report
from dp_vllm.replay.trace import Request
from dp_vllm.sim.engine import Pace

POLICIES: Final = tuple(policy for policy in Policy if policy is not Policy.SESSION)
"""A trace does not say which requests are one session."""

QUIET_SECONDS: Final = 1.0
"""A replay that takes no longer than this tells no progress."""

TOLD_EVERY: Final = 100
"""Requests."""


def _policies(context: click.Context, parameter: click.Parameter, given: str | None) -> list[Policy]:
    if given is None:
        return list(POLICIES)
    known = {policy.value: policy for policy in POLICIES}
    named = list(dict.fromkeys(word.strip() for word in given.split(",")))
    for word in named:
        if word == Policy.SESSION.value:
            raise click.BadParameter("a trace does not say which requests are one session")
        if word not in known:
            raise click.BadParameter(f"{word!r} is not one of {', '.join(known)}")
    return [known[word] for word in named]


_MORE_THAN_0: Final = Number(1e-6, 1e9)


@click.command(context_settings={"max_content_width": 100, "show_default": True})
@click.argument("trace_file", metavar="TRACE")
@click.option(
    "--policy",
    "policies",
    callback=_policies,
    metavar="NAME,...",
    help=f"Of {', '.join(p.value for p in POLICIES)}.  [default: all]",
)
@click.option("--replicas", type=click.IntRange(1, 1000), default=4)
@click.option("--speed", type=_MORE_THAN_0, default=1.0, help="How many times faster requests come than they did.")
@click.option("--from", "first", type=click.IntRange(0), default=0, help="The first request to replay, counted from 0.")
@click.option(
    "--to", "end", type=click.IntRange(1), help="The request before which to stop.  [default: the trace's end]"
)
@click.option(
    "--block-tokens", type=click.IntRange(1), help="Length of a block.  [default: as the trace says, else 512]"
)
@click.option(
    "--kv-blocks", type=click.IntRange(1, 10_000_000), default=6000, help="KV cache of each replica, in such blocks."
)
@click.option("--prefill-tokens-per-second", type=_MORE_THAN_0, default=15_000.0, help="Of each replica.")
@click.option("--decode-step-seconds", type=_MORE_THAN_0, default=0.02, help="Length of a step.")
@click.option("--decode-growth-seconds", type=Number(0, 1e9), default=0.0001, help="For each sequence that decodes.")
@click.option("--prefix-weight", type=Number(0, 1000), default=PREFIX_WEIGHT, help="The gateway's.")
@click.option(
    "--replica-ahead-seconds",
    type=Number(0, 3600, min_open=True),
    default=AHEAD_SECONDS,
    help="The gateway's. 3600: nothing is kept back.",
)
@click.option("--json", "as_json", is_flag=True, help="All figures, as JSON.")
def main(**given: Any) -> int:
    """What each policy of the gateway would have made of TRACE: requests in Mooncake's format, as published or as
    `dp-vllm gateway --record` writes it; - is standard input.

    Engines are simulated and time is counted, not waited for. All times that are told are seconds.
    """
    requests, block_tokens = source.read(given["trace_file"], given["block_tokens"])
    requests = _part(requests, given["first"], given["end"])
    pace = Pace(given["prefill_tokens_per_second"], given["decode_step_seconds"], given["decode_growth_seconds"])
    sizes = Sizes(given["replicas"], block_tokens, given["kv_blocks"], pace)
    coming = arrivals(requests, sizes, speed=given["speed"], first=given["first"])
    ideal = trace.ideal_hit_rate(requests, block_tokens, sizes.replicas * sizes.kv_blocks)
    fleets = {
        policy: Fleet(
            *(sizes, policy), prefix_weight=given["prefix_weight"], ahead_seconds=given["replica_ahead_seconds"]
        )
        for policy in given["policies"]
    }
    found = _compare(coming, sizes, ideal, fleets)
    click.echo(json.dumps(asdict(found), indent=2) if given["as_json"] else report.as_text(found))
    return 0


def _part(requests: list[Request], first: int, end: int | None) -> list[Request]:
    if first >= len(requests):
        raise BadSettings(f"--from {first}: the trace has {len(requests)} requests, counted from 0")
    if end is not None and end <= first:
        raise BadSettings(f"--to {end}: has to be more than --from {first}")
    return trace.from_zero(requests[first:end])


def _compare(coming: list[Arrival], sizes: Sizes, ideal: float, fleets: Mapping[Policy, Fleet]) -> Report:
    rows = {
        policy.value: report.row(list(_watched(fleet.run(coming), policy.value, len(coming))), ideal)
        for policy, fleet in fleets.items()
    }
    seconds = coming[-1].at_seconds
    could_read = sizes.pace.prefill_tokens_per_second * sizes.replicas * seconds
    load = sum(arrival.facts.tokens for arrival in coming) / could_read if seconds else None
    return Report(len(coming), seconds, sizes.replicas, load, ideal, rows)


def _watched(answers: Iterator[Answer], name: str, count: int) -> Iterator[Answer]:
    told, begun = False, time.monotonic()
    for number, answer in enumerate(answers):
        yield answer
        if number % TOLD_EVERY == 0 and sys.stderr.isatty() and time.monotonic() - begun > QUIET_SECONDS:
            told = True
            click.echo(f"\r{name}: {number:,} of {count:,} requests", err=True, nl=False)
    if told:
        click.echo("\r\033[K", err=True, nl=False)
