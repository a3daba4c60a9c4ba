"""What it gains and costs that the gateways of a DPModel tell each other what they do.

    python bench/gateways.py                                       a minute or two
    python bench/gateways.py --conversations 6 --turns 3 --requests 200 --rounds 1

Two pairs of gateways take turns before the same four engines, all as pods of an API server; one pair is told. Each turn
of a conversation goes through either gateway of a pair by chance, one request at a time. `same` is the share of the
later turns that go where the turn before went, `prefix` of those whose `x-dp-vllm-reason` says prefix. Costs are
microseconds of CPU time of both gateways together, for one request (a chat with 200 bytes, with 16 kB) and for one
streamed chunk, medians over the rounds; `telling` is the median of the rounds' differences. All gateways share a core;
engines and clients have another one.
"""

import argparse
import asyncio
import os
import random
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Final

import uvloop

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
import programs
import wire
from replica_pods import PORT, address, gateway_pod, pod, running
from scripted_api import api_server
from watched import Scrape

from bench import answers, load
from bench.cpu import on_core
from bench.parts import ENGINES, FOREVER
from bench.peers import Command, Engines, Place
from bench.running import ROOT, Running, gateway
from dp_vllm import names

CONNECTIONS: Final = 16
STREAMS: Final = 50
"""Of each gateway."""
WARM_REQUESTS: Final = 200
CHUNKS: Final = 10
"""So many are counted for each request that is."""
SECONDS: Final = 300.0
"""For all requests of one kind, on a machine that is too slow for them."""
Pair = Sequence[Running]


@contextmanager
def engines(hosts: Sequence[str], folder: Path) -> Iterator[None]:
    """Engines at the addresses of pods."""
    argv = [sys.executable, "-m", "bench.engine", "--port", str(PORT)]
    argv += [word for host in hosts for word in ("--host", host)]
    ready = [f"http://{host}:{PORT}/health" for host in hosts]
    env = {"PYTHONPATH": str(ROOT)}
    with programs.running(argv, folder / "engines.log", ready=lambda: all(map(programs.answers, ready)), env=env):
        yield


@contextmanager
def one_gateway(ip: str, told: bool, kubeconfig: Path, core: int) -> Iterator[Running]:
    """A gateway in the pod with this address."""

    def command(place: Place) -> Command:
        argv = programs.python("-m", "dp_vllm_gateway", "--kubernetes-model", "m", "--no-access-log")
        argv += ["--host", "127.0.0.1", "--port", str(place.port), "--admin-socket", str(place.folder / "admin")]
        argv += ["--peer-port", str(names.PEER_PORT)] if told else []
        return Command(argv, {"KUBECONFIG": str(kubeconfig), "POD_IP": ip})

    with gateway(ip, command, Engines((), ()), kubeconfig.parent / ip, core) as started:
        yield started


def peers(one: Running, folder: Path) -> float:
    """How many others tell this gateway."""
    scraped = wire.ask(f"unix:{folder / one.name / 'admin'}", "GET", "/metrics")
    return Scrape(scraped.body).value("dp_vllm_gateway_peers")


def choices(pair: Pair, conversations: int, turns: int) -> tuple[float, float]:
    """Shares of the later turns: to where the turn before went, and by prefix."""
    rng = random.Random(1)
    texts = [f"{number} " + "".join(rng.choices("abcdefgh ", k=8000)) for number in range(conversations)]
    order = [number for number in range(conversations) for _ in range(turns)]
    rng.shuffle(order)
    last: dict[int, str | None] = {}
    same = prefix = 0
    for number in order:
        chosen = rng.choice(pair).address
        answer = wire.complete(f"http://{chosen.host}:{chosen.port}", model=answers.MODEL, prompt=texts[number])
        if number in last:
            same += answer.replica == last[number]
            prefix += answer.headers["x-dp-vllm-reason"].startswith("prefix")
        last[number] = answer.replica
        texts[number] += "".join(rng.choices("abcdefgh ", k=2000))
    later = len(order) - len(last)
    return same / later, prefix / later


def used(pair: Pair) -> float:
    """CPU time of both, in microseconds."""
    return sum(one.usage.cpu().program_seconds for one in pair) * 1e6


async def request_cost(pair: Pair, prompt_bytes: int, count: int) -> float:
    """Of one of `count` requests to each."""
    request = load.chat(prompt_bytes)
    for number in (WARM_REQUESTS, count):
        before = used(pair)
        sending = (load.many_answers(one.address, request, number, CONNECTIONS, SECONDS) for one in pair)
        await asyncio.gather(*sending)
    return (used(pair) - before) / (count * len(pair))


async def chunk_cost(pair: Pair, count: int) -> float:
    """Of one of at least `count` chunks, of streams that outlast them."""
    request = load.chat(200, stream=True, max_tokens=FOREVER)
    async with AsyncExitStack() as stack, asyncio.timeout(SECONDS):
        opened = [await stack.enter_async_context(load.readers(one.address, request, STREAMS)) for one in pair]
        begun, before = sum(reader.chunks for readers in opened for reader in readers), used(pair)
        while (done := sum(reader.chunks for readers in opened for reader in readers) - begun) < count:
            await asyncio.sleep(0.05)
        return (used(pair) - before) / done


def costs(pair: Pair, requests: int) -> list[float]:
    """Of a short request, a long one and a chunk."""
    short, long = (uvloop.run(request_cost(pair, size, requests)) for size in (200, 16_000))
    return [short, long, uvloop.run(chunk_cost(pair, CHUNKS * requests))]


def show(shares: Mapping[str, tuple[float, float]], rounds: Mapping[str, Sequence[Sequence[float]]]) -> None:
    """Print the table."""
    print(f"{'':18}  same  prefix  request 200 B  request 16 kB  chunk")
    for kind, (same, prefix) in shares.items():
        short, long, chunk = map(median, zip(*rounds[kind], strict=True))
        print(f"{kind:18}  {same:4.2f}  {prefix:6.2f}  {short:13.0f}  {long:13.0f}  {chunk:5.1f}")
    more = [[b - a for a, b in zip(*both, strict=True)] for both in zip(*rounds.values(), strict=True)]
    short, long, chunk = map(median, zip(*more, strict=True))
    print(f"{'telling':18}  {'':4}  {'':6}  {short:+13.0f}  {long:+13.0f}  {chunk:+5.1f}")


def main() -> None:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--conversations", type=int, default=60)
    made.add_argument("--turns", type=int, default=6, help="of each conversation, 2 at least")
    made.add_argument("--requests", type=int, default=1000, help="of each size to each gateway, in a round")
    made.add_argument("--rounds", type=int, default=9)
    given = made.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    hosts, told = [address() for _ in range(ENGINES)], [address(), address()]
    pods = [pod(f"m-1-{number}", running(host)) for number, host in enumerate(hosts)]
    pods += [gateway_pod(f"m-gateway-{number}", ip) for number, ip in enumerate(told)]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dp-vllm-bench-")))
        stack.enter_context(on_core(cores[-1]))
        kubeconfig = stack.enter_context(api_server(*pods)).kubeconfig(folder / "kubeconfig")
        stack.enter_context(engines(hosts, folder))
        ips = {"each for itself": [address(), address()], "telling each other": told}
        pairs = {
            kind: [stack.enter_context(one_gateway(ip, of is told, kubeconfig, cores[0])) for ip in of]
            for kind, of in ips.items()
        }
        both = pairs["telling each other"]
        programs.wait_until(lambda: all(peers(one, folder) == 1 for one in both), "they tell each other")
        shares = {kind: choices(pair, given.conversations, given.turns) for kind, pair in pairs.items()}
        rounds: dict[str, list[list[float]]] = {kind: [] for kind in pairs}
        for number in range(given.rounds):
            for kind in sorted(pairs, reverse=number % 2 == 1):
                rounds[kind].append(costs(pairs[kind], given.requests))
    show(shares, rounds)


if __name__ == "__main__":
    main()
