"""`dp-vllm serve` in jobs on one node of a real Slurm."""

import os
import re
import subprocess

import pytest
import wire
from programs import is_alive, wait_until
from slurm.bed import Bed
from slurm.jobs import SERVE, job

pytestmark = pytest.mark.slurm

ONE = ("--nodes=1", "--nodelist=n1")


def test_two_jobs_on_one_node_get_different_gpus_and_ports_and_both_answer(bed: Bed) -> None:
    with job(bed, *ONE, "--gpus=2", flags=["-dp", "2"]) as first:
        first.wait_for(2)
        with job(bed, *ONE, "--gpus=2", flags=["-tp", "2"]) as second:
            second.wait_for(1)
            assert first.url != second.url
            for each in (first, second):
                assert wire.ask(each.url, "GET", "/v1/models").status == 200
            assert "GPU 0\n" in first.output() and "GPU 1\n" in first.output()
            assert "GPU 2, 3" in second.output()
            assert "is taken here, so the endpoint is on port" in second.output()
            assert "http://n1:" in second.output(), "where others reach it"


def test_scancel_leaves_no_process_and_no_file(bed: Bed) -> None:
    with job(bed, *ONE, "--gpus=2", flags=["-dp", "2", "--sim-fault", "orphan", "ignore-sigterm"]) as served:
        served.wait_for(2)
        ours = bed.ours()
        assert len(ours) >= 5, "a supervisor, a gateway and two engines, and guardians"
        bed.command("scancel", served.id)
        served.process.wait(30)
        wait_until(lambda: served.id not in bed.jobs(), "the job is over", seconds=40)
        assert not list(filter(is_alive, ours))
        assert not list(bed.run_directories.glob(f"dp-vllm/job-{served.id}*"))
        assert not (served.logs / "endpoint").exists(), "it says where the endpoint is, and there is none"
        assert "stopped" in served.output(), "it had the time to end in order"


def test_what_a_job_left_that_was_killed_at_once_is_removed_by_the_next(bed: Bed) -> None:
    with job(bed, *ONE, "--gpus=1") as killed:
        killed.wait_for(1)
        killed.process.terminate()  # srun then has Slurm kill the step at once
        killed.process.wait(30)
        wait_until(lambda: killed.id not in bed.jobs(), "the job is over", seconds=40)
    left = bed.run_directories / f"dp-vllm/job-{killed.id}.0"
    assert left.exists()
    with job(bed, *ONE, "--gpus=1") as following:
        following.wait_for(1)
        assert not left.exists()


@pytest.mark.parametrize(
    ("words", "flags", "said"),
    [
        (("--gpus=2",), ("-dp", "3"), r"needs dp\*tp\*pp = 3\*1\*1 = 3 GPUs, CUDA_VISIBLE_DEVICES has 2"),
        (("--gpus=1",), ("-tp", "2"), "all that Slurm gave the job"),
        (("--ntasks=2",), (), "Slurm started 2 tasks on one node"),
    ],
)
def test_what_the_allocation_does_not_have_is_a_sentence(
    bed: Bed, words: tuple[str, ...], flags: tuple[str, ...], said: str
) -> None:
    done = subprocess.run(
        ("srun", *ONE, *words, *SERVE, *flags), env=bed.environment(), capture_output=True, text=True, timeout=60
    )
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert re.search(said, done.stderr), done.stderr


def test_without_its_variable_the_gpus_are_those_of_the_step(bed: Bed) -> None:
    words = ("srun", *ONE, "--gpus=2", "env", "-u", "CUDA_VISIBLE_DEVICES", *SERVE, "-dp", "2", "--dry-run")
    done = subprocess.run(words, env=bed.environment(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "CUDA_VISIBLE_DEVICES=0" in done.stdout and "CUDA_VISIBLE_DEVICES=1" in done.stdout
    assert os.fspath(bed.run_directories / "dp-vllm") in done.stdout
