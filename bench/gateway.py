"""What a gateway costs, ours beside others: CPU time per request and per streamed chunk, memory, added latency.

    python bench/gateway.py                              everything, about half an hour
    python bench/gateway.py cost --rounds 3 --seconds 2 --only nginx,dp-vllm,vllm-router
    python bench/gateway.py --profile out.svg --scenarios chunks-100

The gateway under test is alone on one core, engines and clients share another. README.md beside this says how to read
the figures, and what goes wrong easily.
"""

import argparse
import gc
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from bench import flame
from bench.cpu import on_core
from bench.parts import SCENARIOS, Benchmark, Plan
from bench.peers import PEERS, Peer, other
from bench.results import Results, as_json, as_text
from bench.scenarios import Duration

PARTS: Final = ("cost", "streams", "latency")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = made.add_argument
    add("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; default: all of them")
    add("--only", type=_names(PEERS), metavar="NAME,...", help=f"of {', '.join(PEERS)}; default: all of them")
    add("--scenarios", type=_names(SCENARIOS), metavar="NAME,...", help=f"of the costs: {', '.join(SCENARIOS)}")
    add("--also", type=_also, action="append", default=[], metavar="NAME=COMMAND", help=other.__doc__)
    add("--rounds", type=int, default=5)
    add("--seconds", type=float, default=3.0, help="measured, of each gateway in each round; default: 3")
    add("--warm-seconds", type=float, default=1.0, help="before that, not counted; default: 1")
    add("--streams", type=int, default=1000, help="side by side in the part `streams`; default: 1000")
    add("--interval-seconds", type=float, default=0.02, help="between two chunks of a stream; default: 0.02")
    cores = sorted(os.sched_getaffinity(0))
    add("--cores", type=_cores, default=(cores[0], cores[-1]), metavar="GATEWAY,LOAD", help="default: first and last")
    add("--json", action="store_true")
    add("--profile", type=Path, metavar="FILE", help=f"only watch dp-vllm with py-spy: FILE{'|'.join(flame.FORMATS)}")
    add("--native", action="store_true", help="C functions too in the profile")
    return made


def _names(known: Iterable[str]) -> Callable[[str], list[str]]:
    def names(text: str) -> list[str]:
        unknown = [name for name in text.split(",") if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: not one of {', '.join(known)}")
        return text.split(",")

    return names


def _also(text: str) -> tuple[str, Peer]:
    name, _, command = text.partition("=")
    return name, other(command)


def _cores(text: str) -> tuple[int, int]:
    gateway, load = map(int, text.split(","))
    return gateway, load


def plan_of(given: argparse.Namespace, folder: Path) -> Plan:
    """What the command line asks for."""
    wanted = given.only or (["dp-vllm"] if given.profile else list(PEERS))
    gateway_core, load_core = given.cores
    return Plan(
        peers={name: PEERS[name] for name in wanted} | dict(given.also),
        scenarios={name: SCENARIOS[name] for name in given.scenarios or SCENARIOS},
        rounds=given.rounds,
        duration=Duration(given.warm_seconds, given.seconds),
        streams=given.streams,
        interval_seconds=given.interval_seconds,
        gateway_core=gateway_core,
        load_core=load_core,
        folder=folder,
    )


def measure(benchmark: Benchmark, parts: list[str]) -> Results:
    """Run the parts one after the other."""
    cost = benchmark.cost() if "cost" in parts else {}
    streams = benchmark.many_streams() if "streams" in parts else {}
    pace, latency = benchmark.latency() if "latency" in parts else (0.0, {})
    return Results(benchmark.versions, cost, streams, pace, latency, benchmark.missing, benchmark.failed)


def main() -> int:
    made = parser()
    given = made.parse_args()
    parts = given.parts or list(PARTS)
    if unknown := set(parts) - set(PARTS):
        made.error(f"{', '.join(unknown)}: not one of {', '.join(PARTS)}")
    gc.disable()  # the clients', within whose measurements a collection would fall
    with tempfile.TemporaryDirectory(prefix="dp-vllm-bench-") as folder, on_core(given.cores[1]):
        benchmark = Benchmark(plan_of(given, Path(folder)))
        if given.profile:
            benchmark.profile(given.profile, native=given.native)
            results = Results(missing=benchmark.missing, failed=benchmark.failed)
            if given.profile.suffix == ".txt" and given.profile.exists():
                print(flame.busiest(given.profile.read_text()))
        else:
            results = measure(benchmark, parts)
    titles = {name: scenario.title for name, scenario in SCENARIOS.items()}
    print(json.dumps(as_json(results), indent=1) if given.json else as_text(results, titles))
    return 1 if results.failed else 0


if __name__ == "__main__":
    sys.exit(main())
