"""What Slurm's variables say of the step, and what a run is called, listens on and is told there."""

import re
from pathlib import Path

import pytest

from dp_vllm.errors import BadSettings, UserError
from dp_vllm.local.command_line import understand
from dp_vllm.local.deployment import Replica
from dp_vllm.local.flags.settings import Settings
from dp_vllm.local.place import directory_of, listen_of, run_name
from dp_vllm.local.slurm.allocation import Allocation, allocation, doubts, hosts

STEP = {
    "SLURM_JOB_ID": "12",
    "SLURM_JOB_NUM_NODES": "2",
    "SLURMD_NODENAME": "n2",
    "SLURM_STEP_ID": "3",
    "SLURM_STEP_NODELIST": "n[1-2]",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_NODEID": "1",
}
ONE_NODE = {"SLURM_JOB_ID": "12", "SLURMD_NODENAME": "n1"}


@pytest.mark.parametrize(
    ("listed", "names"),
    [
        ("n1", "n1"),
        ("n[1-3]", "n1 n2 n3"),
        ("gpu[08-10,2],login", "gpu08 gpu09 gpu10 gpu2 login"),
        ("r[1-2]c[3,5]-ib", "r1c3-ib r1c5-ib r2c3-ib r2c5-ib"),
        ("a-1.example.org,b-2", "a-1.example.org b-2"),
    ],
)
def test_a_node_list_is_read_as_scontrol_reads_it(listed: str, names: str) -> None:
    assert list(hosts(listed)) == names.split()


@pytest.mark.parametrize(
    ("environ", "found"),
    [
        ({}, None),
        ({"SLURM_JOB_ID": "12"}, None),  # a shell of salloc on a login node
        (ONE_NODE, Allocation("12", "n1", nodes=("n1",))),
        ({**ONE_NODE, "SLURM_STEP_ID": "4294967290"}, Allocation("12", "n1", nodes=("n1",))),
        ({**ONE_NODE, "SLURM_STEP_ID": "0"}, Allocation("12", "n1", "0", ("n1",))),
        (STEP, Allocation("12", "n2", "3", ("n1", "n2"), rank=1, job_nodes=2)),
    ],
)
def test_the_step_is_what_the_variables_say(environ: dict[str, str], found: Allocation | None) -> None:
    assert allocation(environ) == found


def test_several_tasks_on_a_node_are_refused() -> None:
    with pytest.raises(UserError, match=r"4 tasks on 2 nodes.*--ntasks-per-node=1"):
        allocation({**STEP, "SLURM_STEP_NUM_TASKS": "4"})


@pytest.mark.parametrize(
    ("environ", "doubt"),
    [
        ({}, None),
        (STEP, None),
        (ONE_NODE, None),
        ({"SLURM_JOB_ID": "12"}, "job 12 but is not on one of its nodes.*put srun before"),
        ({**ONE_NODE, "SLURM_JOB_NUM_NODES": "4"}, "4 nodes, and this run is on n1 alone.*--ntasks-per-node=1"),
    ],
)
def test_what_was_probably_not_meant_is_said(environ: dict[str, str], doubt: str | None) -> None:
    said = doubts(environ, allocation(environ))
    assert bool(said) == (doubt is not None)
    assert doubt is None or re.search(doubt, said[0])


@pytest.mark.parametrize(
    ("settings", "environ", "name"),
    [
        (Settings(), {}, "8000"),
        (Settings(port=9), {}, "9"),
        (Settings(), ONE_NODE, "job-12"),
        (Settings(), STEP, "job-12.3"),
        (Settings(port=9), STEP, "job-12.3-9"),
        (Settings(uds=Path("/x/y.sock")), STEP, "job-12.3-y.sock"),
        (Settings(name="mine"), STEP, "mine"),
    ],
)
def test_a_run_is_called_after_its_job(settings: Settings, environ: dict[str, str], name: str) -> None:
    assert run_name(settings, allocation(environ)) == name


def test_nodes_have_a_directory_each_and_log_to_one_place(short_path: Path) -> None:
    environ = {"XDG_RUNTIME_DIR": str(short_path), "XDG_STATE_HOME": "/shared"}
    found = directory_of(Settings(), allocation(STEP), environ)
    assert (found.path, found.logs) == (short_path / "dp-vllm/job-12.3-n2", Path("/shared/dp-vllm/job-12.3"))
    alone = directory_of(Settings(), allocation(ONE_NODE), environ)
    assert (alone.path, alone.logs) == (short_path / "dp-vllm/job-12", Path("/shared/dp-vllm/job-12"))


def test_in_a_job_a_port_that_nobody_asked_for_may_be_another() -> None:
    assert not listen_of(Settings(), None).or_next
    assert listen_of(Settings(), allocation(STEP)).or_next
    assert not listen_of(Settings(port=8000), allocation(STEP)).or_next


@pytest.mark.parametrize(
    ("settings", "url"),
    [
        (Settings(), "http://n2:8000"),
        (Settings(ssl_certfile=Path("c"), port=9), "https://n2:9"),
        (Settings(host="127.0.0.1"), ""),
        (Settings(uds=Path("/s")), ""),
    ],
)
def test_others_are_told_the_nodes_name_where_they_can_use_it(settings: Settings, url: str) -> None:
    assert listen_of(settings, allocation(STEP)).url_elsewhere == url
    assert listen_of(settings, None).url_elsewhere == ""


def asked(environ: dict[str, str], *words: str) -> tuple[Replica, ...]:
    request = understand(("demo/model", "--engine", "sim", *words), {"HOME": "/home/x", **environ})
    assert request is not None
    return request.deployment.replicas


def test_in_a_job_engines_let_requests_end_as_slurm_ends_all_processes_at_once() -> None:
    (inside,) = asked(ONE_NODE, "--shutdown-timeout", "7.5")
    (outside,) = asked({}, "--shutdown-timeout", "7.5")
    where = inside.command.argv.index("--shutdown-timeout")
    assert inside.command.argv[where + 1] == "13"
    assert "--shutdown-timeout" not in outside.command.argv


def test_a_rehearsal_on_one_of_several_nodes_shows_its_own_replicas() -> None:
    gpus = {"CUDA_VISIBLE_DEVICES": "0,1,2,3"}
    assert [each.name for each in asked({**STEP, **gpus}, "-dp", "6", "--dry-run")] == ["3", "4", "5"]
    with pytest.raises(
        UserError, match=r"-dp 6 does not fit into the job: there is room on n1 for 2 \(4 GPUs\), on n2"
    ):
        asked({**STEP, **gpus}, "-dp", "6", "-tp", "2", "--dry-run")
    with pytest.raises(BadSettings, match="--replica-ports: in a run over several nodes"):
        asked({**STEP, **gpus}, "-dp", "6", "--replica-ports", "9000")
