"""Whether our gateway's memory stays what it is: its resident set after each tenth of very many requests.

    python bench/steady.py                      a million requests, a few minutes
    python bench/steady.py --requests 100000

Every thousand of them have another prompt, and another header, than those before.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import Final

import uvloop

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from bench import load, running
from bench.cpu import on_core
from bench.parts import ENGINES
from bench.peers import PEERS

CONNECTIONS: Final = 32

ALIKE: Final = 1000

PROMPT_BYTES: Final = 3000
"""Some blocks of a prompt, so that routing has something to remember."""

SECONDS: Final = 600.0
"""For one thousand, on a machine that is too slow for them."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--requests", type=int, default=1_000_000)
    return made


def main() -> int:
    given = parser().parse_args()
    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(prefix="dp-vllm-bench-") as name:
        folder = Path(name)
        with (
            on_core(cores[-1]),
            running.engines(ENGINES, 0.02, folder, cores[-1]) as behind,
            running.gateway("dp-vllm", PEERS["dp-vllm-unix"], behind, folder / "gateway", cores[0]) as gateway,
        ):
            print(f"{'requests':>10}  resident, MB")
            sent = 0
            while sent < given.requests:
                count = min(ALIKE, given.requests - sent)
                uvloop.run(load.many_answers(gateway.address, _request(sent), count, CONNECTIONS, SECONDS))
                sent += count
                if sent * 10 // given.requests > (sent - count) * 10 // given.requests:
                    print(f"{sent:>10,}  {gateway.usage.resident_bytes() / 1e6:.1f}", flush=True)
            print(f"in flight at the end: {gateway.in_flight()}")
    return 0


def _request(number: int) -> bytes:
    """A chat like no other."""
    request = load.chat(PROMPT_BYTES).replace(b"What does", b"%09d" % number, 1)
    return request.replace(b"content-type:", b"x-number: %d\r\ncontent-type:" % number, 1)


if __name__ == "__main__":
    sys.exit(main())
