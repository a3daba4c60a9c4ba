"""The batch scripts of `examples/slurm`, in a real Slurm: with simulated engines, and fewer CPUs than they ask for."""

import shlex
from pathlib import Path

import pytest
import wire
from programs import wait_until
from slurm.bed import Bed
from slurm.jobs import SERVE

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(180)]

EXAMPLES = Path(__file__).parents[2] / "examples/slurm"


@pytest.mark.parametrize(("name", "replicas"), [("one-node", 4), ("several-nodes", 8)])
def test_a_batch_script_serves_until_it_is_cancelled(bed: Bed, name: str, replicas: int) -> None:
    script = (EXAMPLES / f"{name}.sbatch").read_text()
    for old, new in (
        ("--cpus-per-task=32", "--cpus-per-task=1"),
        ("source ~/venv/bin/activate", ""),
        ("dp-vllm serve Qwen/Qwen3-8B", shlex.join(SERVE)),
    ):
        assert old in script
        script = script.replace(old, new)
    path = bed.folder / f"{name}.sbatch"
    path.write_text(script)
    log = bed.folder / "log" / f"{name}.out"
    job = bed.command("sbatch", "--parsable", f"--output={log}", str(path)).strip()
    endpoint = bed.folder / f"home/.local/state/dp-vllm/job-{job}.0/endpoint"
    try:
        wait_until(endpoint.exists, lambda: log.read_text() if log.exists() else "no word", seconds=90)
        url = f"http://127.0.0.1:{endpoint.read_text().strip().rpartition(':')[2].removesuffix('/v1')}"
        key = {"authorization": "Bearer change-me"}
        wait_until(
            lambda: wire.ask(url, "GET", "/metrics", headers=key).body.count(b"vllm:num_requests_running{") == replicas,
            log.read_text,
            seconds=90,
        )
        assert wire.ask(url, "GET", "/v1/models").status == 401
    finally:
        bed.command("scancel", job)
    wait_until(lambda: job not in bed.jobs(), "the job is over", seconds=60)
    assert log.read_text().count("stopped") == (1 if name == "one-node" else 2), "in order"
    assert not list(bed.run_directories.glob(f"dp-vllm/job-{job}*"))
