"""The benchmark of what gateways know runs. What it measures is for people to look at."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.exhaustive

BENCH = Path(__file__).resolve().parents[2] / "bench" / "knowledge.py"


def test_every_kind_of_knowledge_has_its_figures(tmp_path: Path) -> None:
    """Prompts of which each second one begins as the one before the last."""
    trace = tmp_path / "trace.jsonl"
    blocks = [[number % 2, 10 + number % 2, 100 + number] for number in range(20)]
    lines = [
        {"timestamp": 500 * number, "input_length": 1536, "output_length": 3, "hash_ids": ids}
        for number, ids in enumerate(blocks)
    ]
    trace.write_text("".join(json.dumps(line) + "\n" for line in lines))
    argv = [sys.executable, str(BENCH), str(trace), "--load", "1", "--kv-blocks", "100"]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=50)
    head, *rows = [line.split() for line in done.stdout.splitlines()]
    assert "believed" in head and len(rows) == 12
    one = [float(row[-4]) for row in rows if row[2] == "1"]
    assert one == [1.0] * 6, "in an empty engine one gateway finds all that could be found, whatever it knows"
