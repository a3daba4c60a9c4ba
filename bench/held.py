"""What it gains that the gateway keeps prompts back, with engines that are real.

    python bench/held.py sim                                           two simulated engines, a minute
    python tests/vllm/run.py -- python bench/held.py vllm --rounds 5   two real ones on this machine's CPU, some minutes

Two engines that stay, and in each round the same streamed prompts, short ones and long ones that share nothing, at the
same random moments (a Poisson process) once through a gateway that sends all at once and once through one that keeps
back what no engine should have yet. How fast an engine reads is measured first; arrivals are such that both are busy
for the given share of the time. First tokens in seconds, over all rounds.
"""

import argparse
import asyncio
import inspect
import json
import pydoc
import random
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Final, NamedTuple

import aiohttp

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
import programs
import real_engine

TEXT: Final = inspect.getsource(tarfile) + inspect.getsource(pydoc)
ENGINES: Final = 2
SIM_FLAGS: Final = ("--served-model-name", real_engine.NAME, "--max-model-len", "32768")
VLLM_FLAGS: Final = ("--max-num-batched-tokens", "2048", "--no-enable-prefix-caching", "--max-model-len", "12288")
VLLM_VARIABLES: Final = {"VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1"}
"""What the tiny model makes of so long prompts does not matter here."""
SHORT_BYTES: Final = (200, 2_000)
LONG_BYTES: Final = (8_000, 24_000)
LONG_SHARE: Final = 0.3
ANSWER_TOKENS: Final = 8
WAYS: Final = {"all sent at once": "3600", "kept back": "0.25"}
"""`--replica-ahead-seconds` of each way."""


def engine(kind: str, folder: Path) -> AbstractContextManager[programs.Program]:
    """An engine, ready."""
    if kind == "sim":
        return programs.sim(folder, *SIM_FLAGS)
    return real_engine.engine(folder, *VLLM_FLAGS, env=VLLM_VARIABLES)


class Asked(NamedTuple):
    """One request of a round."""

    at: float
    """Seconds after its beginning."""
    prompt: str


def drawn(rng: random.Random, requests: int, bytes_per_second: float) -> list[Asked]:
    """A round's requests, of which so many bytes come a second on average."""
    mean = (1 - LONG_SHARE) * sum(SHORT_BYTES) / 2 + LONG_SHARE * sum(LONG_BYTES) / 2
    found, at = [], 0.0
    for _ in range(requests):
        at += rng.expovariate(bytes_per_second / mean)
        size = rng.randint(*(LONG_BYTES if rng.random() < LONG_SHARE else SHORT_BYTES))
        found.append(Asked(at, prompt(rng, size)))
    return found


def prompt(rng: random.Random, size: int) -> str:
    """A text of so many bytes that begins as no other does."""
    start = rng.randrange(len(TEXT) - size)
    return f"{rng.getrandbits(64):x} {TEXT[start : start + size]}"


async def first_token(session: aiohttp.ClientSession, url: str, text: str) -> float:
    """Seconds until the first event of an answer; the rest is read too."""
    body = {"model": real_engine.NAME, "prompt": text, "max_tokens": ANSWER_TOKENS, "ignore_eos": True, "stream": True}
    began = time.monotonic()
    async with session.post(f"{url}/v1/completions", data=json.dumps(body)) as response:
        response.raise_for_status()
        await response.content.readline()
        seconds = time.monotonic() - began
        await response.read()
    return seconds


async def pace(url: str, rng: random.Random) -> float:
    """How many bytes of prompts an engine reads a second: three long ones after each other, the first not counted."""
    async with aiohttp.ClientSession(headers={"content-type": "application/json"}) as session:
        seconds = [await first_token(session, url, prompt(rng, LONG_BYTES[1])) for _ in range(3)]
    return LONG_BYTES[1] / statistics.fmean(seconds[1:])


async def round_of(url: str, asked: Sequence[Asked]) -> list[float]:
    """Send each when it is due; the seconds until the first tokens."""
    began = time.monotonic()
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, headers={"content-type": "application/json"}) as session:

        async def one(it: Asked) -> float:
            await asyncio.sleep(began + it.at - time.monotonic())
            return await first_token(session, url, it.prompt)

        return await asyncio.gather(*(one(it) for it in asked))


def main() -> None:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("engine", choices=["sim", "vllm"])
    made.add_argument("--rounds", type=int, default=2)
    made.add_argument("--requests", type=int, default=150, help="in each round")
    made.add_argument("--load", type=float, default=0.8, help="of what the engines can read")
    given = made.parse_args()
    rng = random.Random(1)
    taken: dict[str, list[float]] = {way: [] for way in WAYS}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        engines = [stack.enter_context(engine(given.engine, folder)).url for _ in range(ENGINES)]
        read = asyncio.run(pace(engines[0], rng))
        print(f"an engine reads {read / 1000:.0f} kB a second", flush=True)
        for number in range(1, given.rounds + 1):
            asked = drawn(rng, given.requests, given.load * ENGINES * read)
            for way, ahead in list(WAYS.items())[:: 1 if number % 2 else -1]:
                words = [word for url in engines for word in ("--replica", url)]
                with programs.gateway(folder, *words, "--replica-ahead-seconds", ahead) as gateway:
                    taken[way] += asyncio.run(round_of(gateway.url, asked))
            print(f"  round {number} of {given.rounds}", file=sys.stderr, flush=True)
    print(f"first token, s     {'mean':>7} {'median':>7} {'p90':>7} {'p99':>7}")
    for way, seconds in taken.items():
        cuts = statistics.quantiles(seconds, n=100)
        shown = (statistics.fmean(seconds), cuts[49], cuts[89], cuts[98])
        print(f"{way:18}", *(f"{value:7.2f}" for value in shown))


if __name__ == "__main__":
    main()
