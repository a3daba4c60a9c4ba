"""How many instructions our gateway spends on one request: a figure that a busy machine hardly changes.

    python bench/instructions.py                         requests with a 200-byte prompt
    python bench/instructions.py --prompt-bytes 16000 --requests 500 --keep out.callgrind

callgrind counts them. What the kernel does is not among them, nor how well a processor likes them: two versions of ours
can be compared by it, not ours with other gateways. Needs valgrind.
"""

import argparse
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
            uvloop.run(load.many_answers(gateway.address, request, WARM_REQUESTS, CONNECTIONS, SECONDS))
            _tell(gateway.pid, "--instr=on")
            uvloop.run(load.many_answers(gateway.address, request, given.requests, CONNECTIONS, SECONDS))
            _tell(gateway.pid, "--instr=off")
            _tell(gateway.pid, "--dump")
        dumped = output.with_name(output.name + ".1")
        print(f"{_total(dumped) / given.requests / 1000:.1f} thousand instructions a request")
        if given.keep:
            shutil.copy(dumped, given.keep)
    return 0


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
