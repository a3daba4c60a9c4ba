"""Starts simulated engines and gateways before them, and reads what the engines have counted."""

import contextlib
import re
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import programs
from ports import free_port

from bench.load import API_KEY, Address
from bench.peers import Engines, Peer, Place
from bench.routing_prompt import MODEL
from bench.workloads import Workload

SETTLE_SECONDS: Final = 2.0
"""From a gateway's first answer to the first request: some send to the first engine that they find until they have
found the others."""

_NO_TOKENIZE: Final = '{"kind": "status", "status": 404, "path": "/tokenize"}'
"""vllm-router asks an engine for the tokens of each prompt, which takes this one as much of its time as the speed says
times longer than it would in the trace. Without an answer the router compares text."""

_COUNTED: Final = re.compile(r"^vllm:(\w+)(?:\{[^}]*\})? ([0-9.e+-]+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast an engine is, in the trace's seconds; `dp_vllm.sim.engine` says what a step takes."""

    prefill_tokens_per_second: float
    decode_step_seconds: float
    decode_growth_seconds: float


@dataclass(frozen=True, slots=True)
class Counts:
    """What one engine has counted since its start."""

    requests: int
    prompt_tokens: int
    cached_tokens: int

    def since(self, before: "Counts") -> "Counts":
        return Counts(
            self.requests - before.requests,
            self.prompt_tokens - before.prompt_tokens,
            self.cached_tokens - before.cached_tokens,
        )


@contextlib.contextmanager
def engines(count: int, workload: Workload, pace: Pace, speed: float, folder: Path) -> Iterator[Engines]:
    """Engines with empty caches that are `speed` times faster than the pace says."""
    longest = max(request.prompt_tokens + request.completion_tokens for request in workload.requests)
    flags = [
        *("--block-size", str(workload.block_tokens)),
        *("--num-gpu-blocks-override", str(workload.cache_blocks)),
        *("--max-model-len", str(longest + 64)),
        *("--sim-prefill-tokens-per-second", str(pace.prefill_tokens_per_second * speed)),
        *("--sim-decode-step-seconds", str(pace.decode_step_seconds / speed)),
        *("--sim-decode-growth-seconds", str(pace.decode_growth_seconds / speed)),
        *("--sim-load-seconds", "0", "--disable-uvicorn-access-log", "--sim-fault", _NO_TOKENIZE),
    ]
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        started = [stack.enter_context(programs.sim(folder, *flags, model=MODEL)) for _ in range(count)]
        yield Engines(tuple(urlsplit(engine.url).port or 0 for engine in started), ())


@contextlib.contextmanager
def gateway(peer: Peer, behind: Engines, folder: Path) -> Iterator[tuple[Address, str]]:
    """A gateway before those engines, once it answers and has found all of them; where it is, and its version."""
    folder.mkdir(parents=True, exist_ok=True)
    address = Address("127.0.0.1", free_port())
    command = peer(Place(behind, address.port, free_port(), folder))
    log = folder / "output.log"
    with programs.running(command.argv, log, ready=lambda: _answers(address), env=command.env):
        time.sleep(SETTLE_SECONDS)
        yield address, command.version


def counts(behind: Engines) -> list[Counts]:
    """What each engine has counted so far."""
    return [_counts(f"http://127.0.0.1:{port}/metrics") for port in behind.ports]


def since(now: Sequence[Counts], before: Sequence[Counts]) -> list[Counts]:
    """What each engine has counted between two looks."""
    return [after.since(earlier) for after, earlier in zip(now, before, strict=True)]


def _counts(url: str) -> Counts:
    with urllib.request.urlopen(url, timeout=30) as response:
        text = response.read().decode()
    sums: dict[str, float] = {}
    for name, value in _COUNTED.findall(text):
        sums[name] = sums.get(name, 0.0) + float(value)
    names = ("request_success_total", "prefix_cache_queries_total", "prefix_cache_hits_total")
    return Counts(*(int(sums[name]) for name in names))


def _answers(address: Address) -> bool:
    body = f'{{"model":"{MODEL}","max_tokens":1,"messages":[{{"role":"user","content":"Ready?"}}]}}'.encode()
    headers = {"Authorization": f"Bearer {API_KEY}", "Content-Type": "application/json"}
    url = f"http://{address.host}:{address.port}/v1/chat/completions"
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False
