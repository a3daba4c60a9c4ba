"""One `dp-vllm serve` over two nodes of a real Slurm: one endpoint over the replicas of both."""

import json
import subprocess
import sys
import threading
from collections import Counter

import pytest
import wire
from programs import is_alive, wait_until
from slurm.bed import Bed
from slurm.jobs import CHAT, SERVE, TWO, Job, chat, job

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(180)]


def test_one_endpoint_serves_with_both_nodes_until_the_job_ends(bed: Bed) -> None:
    with job(bed, *TWO, flags=["-dp", "8"]) as served:
        served.wait_for(8)
        asked = [chat(served, f"question {number} {'about something else ' * number}") for number in range(32)]
        assert {answer.status for answer in asked} == {200}
        used = Counter(answer.headers["x-dp-vllm-replica"] for answer in asked)
        assert set(used) == set("01234567"), used
        there = [path.read_text().count(CHAT) for path in sorted(served.logs.glob("replica-[4-7].log"))]
        assert all(there), "the other node's engines answered too"
        assert not (served.logs / "nodes.json").exists(), "the secret lies about no longer than needed"
        _a_stranger_is_refused(bed, served)
        _a_replica_is_restarted_from_its_own_node(bed, served)
        ours = bed.ours()
        bed.command("scancel", served.id)
        served.process.wait(60)
        wait_until(lambda: served.id not in bed.jobs(), "the job is over", seconds=40)
        assert not list(filter(is_alive, ours))
        assert not list(bed.run_directories.glob(f"dp-vllm/job-{served.id}*"))


def _a_replica_is_restarted_from_its_own_node(bed: Bed, served: Job) -> None:
    inside = ("srun", f"--jobid={served.id}", "--overlap", "--nodes=1", "--ntasks=1", "--nodelist=n2")
    name = f"job-{served.id}.0-n2"
    said = bed.command(*inside, sys.executable, "-I", "-m", "dp_vllm", "restart", "5", "--name", name)
    assert "replica 5: serves" in said
    assert served.serves(8)


def _a_stranger_is_refused(bed: Bed, served: Job) -> None:
    (file,) = bed.run_directories.glob(f"dp-vllm/job-{served.id}.0-n1/endpoints.json")
    doors = [each["address"] for each in json.loads(file.read_text())["endpoints"] if each["address"][0] != "u"]
    assert len(doors) == 4
    secret = file.with_name("secret").read_text().strip()
    assert file.with_name("secret").stat().st_mode & 0o777 == 0o600
    commands = [" ".join(words) for words in bed.command_lines().values()]
    assert not [command for command in commands if secret in command], "everybody sees a command line"
    for headers, status in (({}, 401), ({"authorization": "Bearer wrong"}, 401), ({"x-api-key": secret}, 401)):
        assert wire.ask(f"http://{doors[0]}", "GET", "/health", headers=headers).status == status
    assert wire.ask(f"http://{doors[0]}", "GET", "/health", headers={"authorization": f"Bearer {secret}"}).status == 200


def test_a_killed_engine_on_another_node_costs_no_answer(bed: Bed) -> None:
    with job(bed, *TWO, flags=["-dp", "4", "--sim-prefill-tokens-per-second", "2000"]) as served:
        served.wait_for(4)
        (victim,) = (each for each, words in bed.command_lines().items() if _is_engine(words, "replica-3.sock"))
        answers: list[wire.Answer] = []
        threads = [
            threading.Thread(target=lambda number=number: answers.append(chat(served, f"{number} " * 2000)))
            for number in range(12)
        ]
        for thread in threads:
            thread.start()
        wait_until(lambda: served.replicas()["3"]["in_flight"] > 0, "it has something to lose")
        victim.kill()
        for thread in threads:
            thread.join()
        assert [answer.status for answer in answers] == [200] * 12
        served.wait_for(4)


def _is_engine(words: list[str], socket: str) -> bool:
    return "dp_vllm.sim" in words and any(word.endswith(socket) for word in words)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("-dp", "9"), "-dp 9 does not fit into the job: there is room on n1 for 4 (4 GPUs), on n2 for 4 (4 GPUs)"),
        ((), "-dp 1 leaves n2 without a replica; -dp 8 uses all GPUs of the job"),
        (("-dp", "8", "--replica-ports", "9000"), "--replica-ports: in a run over several nodes"),
        (("-dp", "8", "--log-dir", "/proc/nothing"), "--log-dir: /proc/nothing cannot be used as a directory"),
    ],
)
def test_what_cannot_be_is_a_sentence(bed: Bed, flags: tuple[str, ...], said: str) -> None:
    words = ("srun", *TWO, *SERVE, "--node-timeout", "5", *flags)
    done = subprocess.run(words, env=bed.environment(), capture_output=True, text=True, timeout=120)
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert said in done.stderr, done.stderr
