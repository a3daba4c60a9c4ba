"""The gateways' benchmark still runs with the gateway as it is. What it measures is for people to look at."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.exhaustive

BENCH = Path(__file__).resolve().parents[2] / "bench" / "gateway.py"


def run(*flags: str) -> subprocess.CompletedProcess[str]:
    """One round, as short as it can be."""
    argv = [sys.executable, str(BENCH), "cost", "--rounds", "1", "--seconds", "0.2", "--warm-seconds", "0", *flags]
    return subprocess.run(argv, capture_output=True, text=True, check=False)


def test_the_benchmark_measures_requests_and_chunks_of_our_gateway() -> None:
    done = run("--only", "dp-vllm", "--scenarios", "request-200,chunks-100", "--json")

    assert done.returncode == 0, done.stderr + done.stdout
    cost = json.loads(done.stdout)["cost"]
    for scenario in ("request-200", "chunks-100"):
        assert cost[scenario]["dp-vllm"]["per_second"]["rounds"][0] > 0


def test_a_gateway_that_does_not_start_is_named_and_fails_the_run_that_measured_the_others() -> None:
    done = run("--only", "dp-vllm", "--also", "absent=/no/such/program", "--scenarios", "chunks-100")

    assert done.returncode == 1
    assert "failed: absent: " in done.stdout
    assert "dp-vllm  " in done.stdout
