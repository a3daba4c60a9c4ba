"""The routing benchmark runs, and its prompts are the trace's. What it measures is for people to look at."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.exhaustive

BENCH = Path(__file__).resolve().parents[2] / "bench"

REQUESTS = 20
BLOCK_TOKENS = 16
TEMPLATE_TOKENS = 15
"""What the simulated engine's chat template adds to a prompt with one message."""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, str(BENCH / "routing.py"), "--only", "dp-vllm", *arguments]
    return subprocess.run(argv, capture_output=True, text=True, check=False)


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """Prompts of 70 tokens that share the first 48; some do not say what their last part is."""
    path = tmp_path / "trace.jsonl"
    lines = [
        {
            "timestamp": 30 * number,
            "input_length": 70,
            "output_length": 3,
            "hash_ids": [1, 2, 3, 100 + number, *([200 + number] if number % 2 else [])],
        }
        for number in range(REQUESTS)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_every_request_of_a_trace_is_answered_and_what_it_shares_is_found_in_the_cache(trace: Path) -> None:
    flags = ("--block-tokens", str(BLOCK_TOKENS), "--cache-blocks", "200", "--engines", "2", "--speed", "1")

    done = run(str(trace), *flags, "--json")

    assert done.returncode == 0, done.stderr + done.stdout
    (case,) = json.loads(done.stdout)["cases"]
    row = case["rows"]["dp-vllm"]
    assert (row["requests"], row["failed"]) == (REQUESTS, {})
    assert row["prompt_tokens"] == REQUESTS * (70 + TEMPLATE_TOKENS)
    bound = case["bound"]
    assert 0 < row["hit_rate"] <= bound["hit_rate"] == (REQUESTS - 1) * 48 / (REQUESTS * 70)
    assert 0 < bound["first_mean_seconds"] < row["first_mean_seconds"] < row["total_p99_seconds"]


def test_a_gateway_that_does_not_start_is_named_and_fails_the_run(trace: Path) -> None:
    done = run(str(trace), "--block-tokens", str(BLOCK_TOKENS), "--also", "absent=/no/such/program", "--engines", "1")

    assert done.returncode == 1
    assert "failed: absent: " in done.stdout
    assert "dp-vllm  " in done.stdout


def test_a_file_that_is_no_trace_is_named(tmp_path: Path) -> None:
    path = tmp_path / "none.jsonl"
    path.write_text("no trace\n")

    done = run(str(path))

    assert done.returncode == 1
    assert f"{path}, line 1: " in done.stderr
