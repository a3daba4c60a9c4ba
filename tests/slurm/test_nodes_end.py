"""How a run over two nodes of a real Slurm ends, as a whole and in parts."""

import shlex
import subprocess
import threading

import psutil
import pytest
import wire
from programs import is_alive, wait_until
from slurm.bed import Bed
from slurm.jobs import SERVE, TWO, Job, chat, job

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(180)]

SECONDS = 60.0


def programs_on(bed: Bed, node: str) -> list[psutil.Process]:
    """What of ours runs there, the supervisor first."""
    return [each for each in bed.ours() if f"SLURMD_NODENAME={node}" in _environment(each)]


def _environment(process: psutil.Process) -> list[str]:
    try:
        return [f"{name}={value}" for name, value in process.environ().items()]
    except psutil.Error:
        return []


def supervisor_on(bed: Bed, node: str) -> psutil.Process:
    (found,) = (each for each in programs_on(bed, node) if "serve" in each.cmdline())
    return found


def is_over(processes: list[psutil.Process]) -> bool:
    return not any(map(is_alive, processes))


def in_flight(served: Job, *replicas: str) -> bool:
    known = served.replicas()
    return all(known.get(name, {}).get("in_flight") for name in replicas)


def test_a_node_that_is_gone_takes_its_replicas_along_and_no_other(bed: Bed) -> None:
    with job(bed, *TWO, flags=["-dp", "4"]) as served:
        served.wait_for(4)
        there = programs_on(bed, "n2")
        supervisor_on(bed, "n2").kill()
        wait_until(
            lambda: "the node n2 is gone, and with it the replicas 2, 3" in served.output(), served.output, SECONDS
        )
        wait_until(lambda: is_over(there), "nothing runs there any more", SECONDS)
        served.wait_for(2)
        assert {chat(served, f"question {number}").status for number in range(8)} == {200}


def test_without_the_first_node_the_others_end(bed: Bed) -> None:
    with job(bed, *TWO, flags=["-dp", "4"]) as served:
        served.wait_for(4)
        there = programs_on(bed, "n2")
        supervisor_on(bed, "n1").kill()
        wait_until(lambda: is_over(there), served.output, SECONDS)
        assert "stopping, because the first node does or is gone" in served.output()
        assert not list(bed.run_directories.glob(f"dp-vllm/job-{served.id}.0-n2"))


def test_what_is_in_flight_on_any_node_is_answered_after_scancel(bed: Bed) -> None:
    flags = ["-dp", "4", "--sim-decode-step-seconds", "0.1", "--shutdown-timeout", "25"]
    with job(bed, *TWO, flags=flags) as served:
        served.wait_for(4)
        answers: list[wire.Answer] = []
        ask = [
            threading.Thread(target=lambda text=text: answers.append(chat(served, text, tokens=40)))
            for text in ("one " * 50, "two " * 50, "three " * 50, "four " * 50)
        ]
        for thread in ask:
            thread.start()
        wait_until(lambda: in_flight(served, "0", "1", "2", "3"), lambda: f"each has one: {served.replicas()}", SECONDS)
        bed.command("scancel", served.id)
        for thread in ask:
            thread.join()
        assert [answer.status for answer in answers] == [200] * 4
        assert not any(answer.cut for answer in answers)


def test_nodes_that_share_no_directory_are_told_which_flag_names_one(bed: Bed) -> None:
    command = f"{shlex.join(SERVE)} -dp 8 --node-timeout 4 --log-dir {bed.folder}/logs-$SLURMD_NODENAME"
    words = ("srun", *TWO, "sh", "-c", f"exec {command}")
    done = subprocess.run(words, env=bed.environment(), capture_output=True, text=True, timeout=120)
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert "n2 did not come within 4 s (--node-timeout)" in done.stderr
    assert "the first node, n1, left no word within 4 s" in done.stderr
    assert "--log-dir names another" in done.stderr
