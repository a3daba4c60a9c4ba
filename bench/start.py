"""How long a start takes with one replica ahead of the others and without: to the first answer, and to all ready.

    python bench/start.py --replicas 4 --load-seconds 20 --cores 1 2 4
    python bench/start.py --replicas 2 --engine /path/to/bin/vllm --model DIRECTORY -- --dtype float32

Each start is the first on its host: it has an empty directory for what engines share (`--sim-host` of simulated ones,
else VLLM_CACHE_ROOT). The simulated ones compile on so many cores as `--cores` says, each on one; what they read they
read in step. Words behind `--` go to the engines.
"""

import argparse
import os
import shlex
import signal
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
import programs
from ports import free_port

LIMIT_SECONDS: Final = 1200.0
WAYS: Final = ("--no-staged-start", "--staged-start")


@dataclass(frozen=True, slots=True)
class Case:
    """One start."""

    engine: str
    model: str
    replicas: int
    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Taken:
    """In seconds from the command on."""

    first_answer: float
    all_ready: float


def measure(case: Case, way: str) -> Taken:
    """Start, ask at once and wait for the answer, wait for all, end."""
    with tempfile.TemporaryDirectory(prefix="dps-") as directory:
        base, port = Path(directory), free_port()
        host = base / "host"
        host.mkdir()
        simulated = ("--sim-host", str(host)) if case.engine == "sim" else ()
        argv = programs.python("-m", "dp_vllm", "serve", case.model, "--engine", case.engine, "-dp", str(case.replicas))
        argv += ["--host", "127.0.0.1", "--port", str(port), "--log-dir", str(base / "logs"), way]
        environ = {"XDG_RUNTIME_DIR": directory, "VLLM_CACHE_ROOT": str(host), "TMPDIR": directory}
        begun = time.monotonic()
        with programs.running([*argv, *case.words, *simulated], base / "output", env=environ) as program:
            answer = _until_answered(f"http://127.0.0.1:{port}/v1/models", program, begun)
            said = f"ready: {case.replicas} of {case.replicas}"
            programs.wait_until(lambda: said in program.output(), program.output, LIMIT_SECONDS)
            ready = time.monotonic() - begun
            program.signal(signal.SIGTERM)
            program.wait()
    return Taken(answer, ready)


def _until_answered(url: str, program: programs.Program, begun: float) -> float:
    programs.wait_until(lambda: program.process.poll() is not None or _is_there(url), program.output)
    request = urllib.request.Request(url, headers={"x-dp-vllm-wait": str(LIMIT_SECONDS)})
    with urllib.request.urlopen(request, timeout=LIMIT_SECONDS) as answer:
        assert answer.status == 200
    return time.monotonic() - begun


def _is_there(url: str) -> bool:
    return programs.answers(url, 503) or programs.answers(url)


def cases(given: argparse.Namespace) -> Iterator[tuple[str, Case]]:
    """What to start, and what is simulated in it."""
    if given.engine != "sim":
        yield f"{os.cpu_count()} real", Case(given.engine, given.model, given.replicas, tuple(given.words))
        return
    for cores in given.cores:
        words = ("--sim-load-seconds", str(given.load_seconds), "--sim-host-cores", str(cores), *given.words)
        yield str(cores), Case("sim", given.model, given.replicas, words)


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", default="sim")
    parser.add_argument("--model", default="demo/model")
    parser.add_argument("--replicas", type=int, default=4)
    parser.add_argument("--load-seconds", type=float, default=20)
    parser.add_argument("--cores", type=int, nargs="+", default=[1, 2, 4], help="that simulated engines compile on")
    parser.add_argument("words", nargs="*")
    given = parser.parse_args()
    print(f"python bench/start.py {shlex.join(sys.argv[1:])}")
    print("\n| cores | one ahead | first answer, s | all ready, s |\n|---|---|---|---|")
    for cores, case in cases(given):
        for way in WAYS:
            taken = measure(case, way)
            said = "no" if way.startswith("--no") else "yes"
            print(f"| {cores} | {said} | {taken.first_answer:.1f} | {taken.all_ready:.1f} |", flush=True)


if __name__ == "__main__":
    main()
