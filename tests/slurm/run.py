"""`make test-slurm`: `python -m slurm.run [words for pytest]`. A real Slurm with two nodes.

Takes Slurm's programs from Debian into the user's cache. Where they cannot be had it says why, in its last line; only
where everything must run (CI is set) is that a failure.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from docker.debian import Failed
from slurm import debian

_ROOT = Path(__file__).parents[2]


def main(words: Sequence[str]) -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        if os.geteuid() != 0:
            raise Failed("its daemons need root")
        debian.programs()
    except Failed as reason:
        print(f"the tests with Slurm were not run: {reason}")
        return int(bool(os.environ.get("CI")))
    command = [sys.executable, "-m", "pytest", str(Path(__file__).parent), "-m", "slurm", *words]
    return subprocess.run(command, cwd=_ROOT).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
