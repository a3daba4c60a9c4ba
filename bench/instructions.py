"""How many instructions our gateway spends on one request: a figure that a busy machine hardly changes.

    python bench/instructions.py                         requests with a 200-byte prompt
    python bench/instructions.py --prompt-bytes 16000 --requests 500 --keep out.callgrind

callgrind counts them. What the kernel does is not among them, nor how well a processor likes them: two versions of ours
can be compared by it, not ours with other gateways. Needs valgrind.
"""

import argparse
import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

import uvloop

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from bench import load, running
from bench.load import Address, Caller
from bench.peers import Command, Place, dp_vllm

CONNECTIONS: Final = 32

WARM_REQUESTS: Final = 300

SECONDS: Final = 300.0
"""For its start, and for all requests: under callgrind everything takes fifty times as long."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--requests", type=int, default=1000)
    made.add_argument("--prompt-bytes", type=int, default=200)
    made.add_argument("--policy", default="")
    made.add_argument("--tcp", action="store_true", help="to the engines; default: unix sockets, as `serve` does")
    made.add_argument("--keep", type=Path, metavar="FILE", help="what callgrind wrote, for callgrind_annotate FILE")
    return made


def main() -> int:
    made = parser()
    given = made.parse_args()
    if shutil.which("callgrind_control") is None:
        made.error("valgrind is not installed")
    with tempfile.TemporaryDirectory(prefix="dp-vllm-bench-") as name:
        folder = Path(name)
        output = folder / "callgrind"

        def watched(place: Place) -> Command:
            command = dp_vllm(place, unix=not given.tcp, policy=given.policy)
            valgrind = ["valgrind", "-q", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={output}"]
            return Command([*valgrind, *command.argv], command.env, command.version, command.admin_socket)

        core = min(os.sched_getaffinity(0))
        with (
            running.engines(4, 0.02, folder, core) as behind,
            running.gateway("dp-vllm", watched, behind, folder / "gateway", core, start_seconds=SECONDS) as gateway,
        ):
            request = load.chat(given.prompt_bytes)
            uvloop.run(_send(gateway.address, request, WARM_REQUESTS))
            _tell(gateway.pid, "--instr=on")
            uvloop.run(_send(gateway.address, request, given.requests))
            _tell(gateway.pid, "--instr=off")
            _tell(gateway.pid, "--dump")
        dumped = output.with_name(output.name + ".1")
        print(f"{_total(dumped) / given.requests / 1000:.1f} thousand instructions a request")
        if given.keep:
            shutil.copy(dumped, given.keep)
    return 0


async def _send(address: Address, request: bytes, count: int) -> None:
    """Send so many requests over kept connections, each as soon as the one before it is answered."""
    left = count
    answered = 0
    all_answered = asyncio.get_running_loop().create_future()

    def completed(caller: Caller) -> None:
        nonlocal left, answered
        answered += 1
        if left:
            left -= 1
            caller.send()
        elif answered == count:
            all_answered.set_result(None)

    async with load.callers(address, request, min(CONNECTIONS, count), completed) as callers, asyncio.timeout(SECONDS):
        left -= len(callers)
        for caller in callers:
            caller.send()
        failures = [caller.failure for caller in callers]
        await asyncio.wait({all_answered, *failures}, return_when=asyncio.FIRST_COMPLETED)
        for failure in failures:
            if failure.done():
                failure.result()


def _tell(pid: int, order: str) -> None:
    subprocess.run(["callgrind_control", order, str(pid)], check=True, stdout=subprocess.DEVNULL)


def _total(dumped: Path) -> int:
    """The sum of a callgrind output file: its line `summary: N`, or `totals: N`."""
    for line in reversed(dumped.read_text().splitlines()):
        if line.startswith(("totals:", "summary:")):
            return int(line.partition(":")[2])
    raise load.Failed(f"{dumped} has no total: nothing was counted")


if __name__ == "__main__":
    sys.exit(main())
