"""The benchmark of very many requests runs, and leaves nothing in flight."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.exhaustive

BENCH = Path(__file__).resolve().parents[2] / "bench" / "steady.py"


def test_memory_is_told_after_each_tenth_of_the_requests() -> None:
    done = subprocess.run(
        [sys.executable, str(BENCH), "--requests", "2500"], capture_output=True, text=True, check=False, timeout=50
    )
    assert done.returncode == 0, done.stderr
    head, *rows, last = done.stdout.splitlines()
    assert head.split() == ["requests", "resident,", "MB"]
    assert [row.split()[0] for row in rows] == ["1,000", "2,000", "2,500"]
    assert all(float(row.split()[1]) > 10 for row in rows)
    assert last == "in flight at the end: 0"
