"""The benchmark of gateways that tell each other runs. What it costs is for people to look at."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.exhaustive

BENCH = Path(__file__).resolve().parents[2] / "bench" / "gateways.py"


def test_turns_through_gateways_that_tell_each_other_stay_where_they_were() -> None:
    flags = ("--conversations", "4", "--turns", "3", "--requests", "20", "--rounds", "1")
    done = subprocess.run([sys.executable, str(BENCH), *flags], capture_output=True, text=True, check=False, timeout=50)
    assert done.returncode == 0, done.stderr
    _, alone, told, telling = (line.split() for line in done.stdout.splitlines())
    assert told[-5:-3] == ["1.00", "1.00"], "same and prefix"
    assert float(alone[-4]) < 1, "a gateway that is not told does not know what went through the other"
    assert len(telling) == 4
