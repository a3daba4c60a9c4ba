"""How right the gateway is about an engine's prefix cache when that is too small for what is asked.

    python bench/cached.py sim
    python tests/vllm/run.py -- python bench/cached.py vllm      the real engine on this machine's CPU, two minutes

Conversations go on in turns, one request at a time, the next one mostly of a conversation that went on lately; together
they are several times as long as the engine's cache of 16,384 tokens. What the gateway took to be cached is held
against `cached_tokens` of each answer. All shares are of the prompts' tokens.
"""

import argparse
import inspect
import json
import pydoc
import random
import sys
import tarfile
import tempfile
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Final, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
import programs
import real_engine

TEXT: Final = inspect.getsource(tarfile) + inspect.getsource(pydoc)
BLOCK_TOKENS: Final = 32
FLAGS: Final = ("--enable-prompt-tokens-details", "--block-size", str(BLOCK_TOKENS))
SIM_FLAGS: Final = (
    *FLAGS,
    "--sim-kv-blocks",
    "512",
    "--max-model-len",
    "8192",
    "--served-model-name",
    real_engine.NAME,
)
VLLM_FLAGS: Final = (*FLAGS, "--kv-cache-memory-bytes", "16M", "--max-model-len", "2048")
RECENT: Final = 6
"""About so many conversations go on at a time."""


class Asked(NamedTuple):
    """One request, in the engine's tokens."""

    prompt: int
    cached: int
    believed: float


def ask(url: str, messages: list[dict[str, str]], answer_tokens: int) -> tuple[Asked, dict[str, str]]:
    """Ask for the next turn; what was found, and the answer."""
    body = {"model": real_engine.NAME, "messages": messages, "max_tokens": answer_tokens}
    data = json.dumps(body | {"ignore_eos": True, "temperature": 0}).encode()
    request = urllib.request.Request(f"{url}/v1/chat/completions", data, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as response:
        answer, reason = json.load(response), response.headers["x-dp-vllm-reason"]
    prompt = answer["usage"]["prompt_tokens"]
    cached = (answer["usage"]["prompt_tokens_details"] or {}).get("cached_tokens") or 0
    believed = float(reason.removeprefix("prefix ")) * prompt if reason.startswith("prefix ") else 0.0
    return Asked(prompt, cached, believed), answer["choices"][0]["message"]


def main() -> None:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("engine", choices=["sim", "vllm"])
    made.add_argument("--conversations", type=int, default=30)
    made.add_argument("--turns", type=int, default=5)
    made.add_argument("--turn-bytes", type=int, default=700)
    made.add_argument("--answer-tokens", type=int, default=48)
    given = made.parse_args()
    rng = random.Random(1)
    open_ones: list[list[dict[str, str]]] = [[] for _ in range(given.conversations)]
    asked: list[Asked] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        engine = programs.sim(folder, *SIM_FLAGS) if given.engine == "sim" else real_engine.engine(folder, *VLLM_FLAGS)
        url = stack.enter_context(programs.gateway(folder, "--replica", stack.enter_context(engine).url)).url
        while open_ones:
            messages = open_ones[min(int(rng.expovariate(1 / RECENT)), len(open_ones) - 1)]
            start = rng.randrange(len(TEXT) - given.turn_bytes)
            messages.append({"role": "user", "content": TEXT[start : start + given.turn_bytes]})
            found, answer = ask(url, messages, given.answer_tokens)
            messages.append({"role": "assistant", "content": answer["content"]})
            asked.append(found)
            open_ones = [each for each in open_ones if len(each) < 2 * given.turns]
    tokens = sum(each.prompt for each in asked)
    shares = {
        "cached": sum(each.cached for each in asked),
        "believed": sum(each.believed for each in asked),
        "believed but not cached": sum(max(0.0, each.believed - each.cached) for each in asked),
        "cached but not believed": sum(max(0.0, each.cached - each.believed) for each in asked),
    }
    print(f"{len(asked)} requests with {tokens:,} prompt tokens:", end=" ")
    print(", ".join(f"{what} {share / tokens:.3f}" for what, share in shares.items()))


if __name__ == "__main__":
    main()
