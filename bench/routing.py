"""What routing gains: traces replayed in real time over simulated engines, through our gateway and through others.

    python bench/routing.py                              all workloads and gateways, a quarter of an hour
    python bench/routing.py mooncake boring --only dp-vllm,nginx-least-conn
    python bench/routing.py my-traffic.jsonl.gz --block-tokens 512 --cache-blocks 6000 --speed 10
    python bench/routing.py chat --also-policy least-load,prefix

README.md beside this says how to read the figures, and what goes wrong easily.
"""

import argparse
import gc
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

import psutil
import uvloop

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from bench import install, routing_fleet
from bench.peers import ROUTING, Peer, dp_vllm, other
from bench.routing_fleet import Pace
from bench.routing_load import replay
from bench.routing_prompt import Prompts
from bench.routing_results import Case, Results, Row, as_json, as_text, bound, row
from bench.workloads import WORKLOADS, Workload, of_file
from dp_vllm.errors import DpVllmError
from dp_vllm.replay.trace import BLOCK_TOKENS, from_zero

FAILURES: Final = (OSError, TimeoutError, AssertionError)
"""What a gateway that does not work raises; AssertionError: it did not start."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What was asked for on the command line."""

    workloads: list[Workload]
    peers: dict[str, Peer]
    engines: int
    pace: Pace
    folder: Path


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = made.add_argument
    add("workloads", nargs="*", metavar="WORKLOAD", help=f"of {', '.join(WORKLOADS)} (default: all), or a trace's file")
    add("--only", type=_names, default=list(ROUTING), metavar="NAME,...", help=f"of {', '.join(ROUTING)}; default: all")
    add("--also-policy", type=_words, default=[], metavar="NAME,...", help="our gateway with these policies, besides")
    add("--also", type=_also, action="append", default=[], metavar="NAME=COMMAND", help=other.__doc__)
    add("--first", type=int, metavar="COUNT", help="only so many requests of each workload")
    add("--speed", type=float, help="how many times faster than in the trace; default: 3 to 10, by workload")
    add("--engines", type=int, default=4)
    add("--cache-blocks", type=int, help="KV cache of an engine; default: 6000 of a trace's, 27000 of 16 tokens else")
    add("--block-tokens", type=int, default=BLOCK_TOKENS, help="length of a block in a trace's file; default: 512")
    add("--prefill-tokens-per-second", type=float, default=15_000, help="of an engine; default: 15000")
    add("--decode-step-seconds", type=float, default=0.02, help="default: 0.02")
    add("--decode-growth-seconds", type=float, default=0.0001, help="for each sequence; default: 0.0001")
    add("--json", action="store_true", help="all figures, as JSON")
    return made


def _words(text: str) -> list[str]:
    return text.split(",")


def _names(text: str) -> list[str]:
    if unknown := set(_words(text)) - set(ROUTING):
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: not one of {', '.join(ROUTING)}")
    return _words(text)


def _also(text: str) -> tuple[str, Peer]:
    name, _, command = text.partition("=")
    return name, other(command)


def plan_of(given: argparse.Namespace, folder: Path) -> Plan:
    """What the command line asks for. Raises DpVllmError for a trace that is none."""
    policies = {f"dp-vllm:{name}": partial(dp_vllm, policy=name) for name in given.also_policy}
    pace = Pace(given.prefill_tokens_per_second, given.decode_step_seconds, given.decode_growth_seconds)
    return Plan(
        workloads=[_workload(name, given) for name in given.workloads or WORKLOADS],
        peers={name: ROUTING[name] for name in given.only} | policies | dict(given.also),
        engines=given.engines,
        pace=pace,
        folder=folder,
    )


def _workload(name: str, given: argparse.Namespace) -> Workload:
    found = WORKLOADS[name]() if name in WORKLOADS else of_file(Path(name), block_tokens=given.block_tokens)
    return replace(
        found,
        requests=from_zero(found.requests[: given.first]),
        speed=given.speed or found.speed,
        cache_blocks=given.cache_blocks or found.cache_blocks,
    )


class Benchmark:
    """One run, and what it found of the gateways on the way."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self.versions: dict[str, str] = {}
        self.missing: dict[str, str] = {}

    def cases(self) -> Iterator[Case]:
        """Every workload through every gateway, each with engines of its own."""
        for number, workload in enumerate(self._plan.workloads):
            rows: dict[str, Row] = {}
            failed: dict[str, str] = {}
            for name, peer in self._plan.peers.items():
                if name in self.missing:
                    continue
                print(f"{workload.title}: {name}", file=sys.stderr)
                try:
                    rows[name] = self._measure(name, peer, workload, self._plan.folder / f"{number}-{len(rows)}")
                except install.Missing as why:
                    self.missing[name] = str(why)
                except FAILURES as error:
                    failed[name] = str(error) or repr(error)
            least = bound(workload, self._plan.engines, self._plan.pace.prefill_tokens_per_second)
            yield Case(workload.title, workload.speed, least, rows, failed)

    def _measure(self, name: str, peer: Peer, workload: Workload, folder: Path) -> Row:
        plan = self._plan
        with (
            routing_fleet.engines(plan.engines, workload, plan.pace, workload.speed, folder / "engines") as engines,
            routing_fleet.gateway(peer, engines, folder / "gateway") as (address, self.versions[name]),
        ):
            prompts = Prompts(workload.block_tokens)
            before = routing_fleet.counts(engines)
            psutil.cpu_percent()
            answers = uvloop.run(replay(address, workload.requests, prompts, workload.speed))
            machine = psutil.cpu_percent() / 100
            counted = routing_fleet.since(routing_fleet.counts(engines), before)
            return row(workload, answers, counted, machine)


def main() -> int:
    given = parser().parse_args()
    gc.disable()  # the client's, within whose measurements a collection would fall
    with tempfile.TemporaryDirectory(prefix="dp-vllm-routing-") as folder:
        try:
            plan = plan_of(given, Path(folder))
        except DpVllmError as error:
            print(error, file=sys.stderr)
            return error.exit_status
        benchmark = Benchmark(plan)
        cases = list(benchmark.cases())
    results = Results(benchmark.versions, cases, benchmark.missing)
    print(json.dumps(as_json(results), indent=1) if given.json else as_text(results))
    return 1 if any(case.failed for case in cases) else 0


if __name__ == "__main__":
    sys.exit(main())
