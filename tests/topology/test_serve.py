"""What `dp-vllm serve` makes of the links: who gets which GPUs, what is told, where a replica's CPUs are."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from topology.stand_in_driver import Driver, bus, uuid

from dp_vllm.errors import DpVllmError
from dp_vllm.local import command_line, pids, run, show
from dp_vllm.local.deployment import Deployment
from dp_vllm.local.run import Record
from dp_vllm.topology.parse import parse

MATRICES = Path(__file__).parent / "matrices"


@pytest.fixture
def vllm(tmp_path: Path) -> str:
    """An executable that looks like an installed vLLM."""
    executable = tmp_path / "venv" / "bin" / "vllm"
    executable.parent.mkdir(parents=True)
    (tmp_path / "venv" / "lib" / "python3.12" / "site-packages" / "vllm-0.32.0.dist-info").mkdir(parents=True)
    executable.write_text("#!/bin/sh\n")
    executable.chmod(0o755)
    return str(executable)


@pytest.fixture
def dgx1(driver: Driver) -> Driver:
    driver.has(parse((MATRICES / "v100x8_dgx1.txt").read_text()).matrix)
    return driver


def deployed(driver: Driver, *words: str, **environ: str) -> Deployment:
    base = {"XDG_RUNTIME_DIR": str(driver.directory), "HOME": str(driver.directory)}
    request = command_line.understand(["m", "--host", "127.0.0.1", *words], base | driver.environ | environ)
    assert request is not None
    return request.deployment


def gpus(deployment: Deployment) -> list[str]:
    return [",".join(replica.gpus) for replica in deployment.replicas]


def test_replicas_get_the_gpus_that_are_joined_best(
    dgx1: Driver, vllm: str, capsys: pytest.CaptureFixture[str]
) -> None:
    deployment = deployed(dgx1, "--engine", vllm, "-dp", "4", "-tp", "2")

    assert gpus(deployment) == ["0,3", "1,2", "4,7", "5,6"]
    assert deployment.warnings == ()
    assert [replica.command.variables["CUDA_VISIBLE_DEVICES"] for replica in deployment.replicas] == gpus(deployment)
    assert {replica.command.variables["CUDA_DEVICE_ORDER"] for replica in deployment.replicas} == {"PCI_BUS_ID"}

    show.print_deployment(deployment)
    assert "replica 0  GPUs         0,3 (slowest link NV2)\n" in capsys.readouterr().out
    show.print_json(deployment)
    first = json.loads(capsys.readouterr().out)["replicas"][0]
    assert (first["gpus"], first["worst_link"]) == (["0", "3"], "NV2")


def test_a_replica_on_one_gpu_has_no_link(dgx1: Driver, vllm: str, capsys: pytest.CaptureFixture[str]) -> None:
    show.print_json(deployed(dgx1, "--engine", vllm, "-dp", "2", CUDA_VISIBLE_DEVICES=uuid(6) + ",1"))
    assert [(one["gpus"], one["worst_link"]) for one in json.loads(capsys.readouterr().out)["replicas"]] == [
        (["6"], None),
        (["1"], None),
    ]


def test_stages_are_told_to_the_engine_in_the_order_of_its_ranks(driver: Driver, vllm: str) -> None:
    driver.has(parse((MATRICES / "pcie8_pix_pxb_sys.txt").read_text()).matrix)
    staged = deployed(driver, "--engine", vllm, "-tp", "2", "-pp", "2", CUDA_VISIBLE_DEVICES="0,2,1,4,3")
    assert gpus(staged) == ["0,1,2,3"]


def test_of_several_models_the_one_with_the_larger_replicas_chooses_first(
    dgx1: Driver, vllm: str, tmp_path: Path
) -> None:
    file = tmp_path / "models.yaml"
    head = "apiVersion: dpvllm.io/v1alpha1\nkind: DPModel\n"
    sizes = (("small", 2, 1), ("pair", 1, 2), ("large", 1, 4))
    file.write_text(
        "---\n".join(
            f"{head}metadata: {{name: {name}}}\nspec: {{model: {name}, replicas: {dp}, tensorParallelSize: {tp}}}\n"
            for name, dp, tp in sizes
        )
    )
    base = {"XDG_RUNTIME_DIR": str(dgx1.directory), "HOME": str(dgx1.directory)}

    request = command_line.understand(["-f", str(file), "--engine", vllm], base | dgx1.environ)

    assert request is not None
    assert {one.name: ",".join(one.gpus) for one in request.deployment.replicas} == {
        "small-0": "5",
        "small-1": "6",
        "pair-0": "4,7",
        "large-0": "0,1,2,3",
    }


def test_groups_can_be_given(dgx1: Driver, vllm: str) -> None:
    deployment = deployed(dgx1, "--engine", vllm, "-dp", "2", "-tp", "2", "--gpu-groups", "7,0;1,2")
    assert gpus(deployment) == ["7,0", "1,2"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--gpu-groups", "0,1;1,2"), "--gpu-groups: GPU 1 is named twice, each can be used once"),
        (("--gpu-groups", "0,8;1,2"), "--gpu-groups: there is no GPU 8: this machine has 0,1,2,3,4,5,6,7"),
        (
            ("--gpu-groups", "0;1,2"),
            "--gpu-groups: '0;1,2' is not allowed; all groups need the same number of GPUs, not 1 and 2",
        ),
        (("-dp", "5"), "needs dp*tp*pp = 5*2*1 = 10 GPUs, this machine has 8 (0,1,2,3,4,5,6,7)"),
    ],
)
def test_what_cannot_be_is_told(words: tuple[str, ...], sentence: str, dgx1: Driver, vllm: str) -> None:
    with pytest.raises(DpVllmError) as error:
        deployed(dgx1, "--engine", vllm, "-dp", "2", "-tp", "2", *words)
    assert str(error.value) == sentence


def test_groups_can_be_rehearsed_and_are_not_for_engines_without_gpus(driver: Driver) -> None:
    driver.says([])
    words = ("-dp", "2", "-tp", "2", "--gpu-groups", "0,1;2,3")
    assert gpus(deployed(driver, "--engine", "sim", *words)) == ["0,1", "2,3"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("-dp", "2", "-tp", "2"), True),
        (("-dp", "1", "-tp", "4"), False),
        (("-dp", "1", "-tp", "2", "-pp", "2"), True),
        (("-dp", "4"), False),
        (("-dp", "2", "-tp", "2", "--gpu-groups", "0,1;2,3"), False),
    ],
)
def test_unknown_links_are_told_where_they_would_have_counted(
    words: tuple[str, ...], told: bool, driver: Driver, vllm: str
) -> None:
    driver.says(["fail nvmlInitWithFlags 15"])

    deployment = deployed(driver, "--engine", vllm, *words, CUDA_VISIBLE_DEVICES="0,1,2,3")

    assert deployment.warnings == (
        (
            "it is not known what joins the GPUs, so replicas get them in index order: the NVIDIA driver says: "
            "GPU is lost; --gpu-groups '0,1;2,3' gives them others",
        )
        if told
        else ()
    )


def test_an_engine_is_kept_to_the_cpus_next_to_its_gpus(driver: Driver, vllm: str) -> None:
    first, *others = sorted(os.sched_getaffinity(0))
    assert others, "a machine with one CPU cannot show it"
    driver.says(
        [f"gpu {uuid(0)} {bus(0)} 1 {1 << first:x}", f"gpu {uuid(1)} {bus(1)} 2 {1 << others[0]:x}", "pcie 0 1 50"]
    )

    near = [replica.command for replica in deployed(driver, "--engine", vllm, "-dp", "2").replicas]
    across = deployed(driver, "--engine", vllm, "-tp", "2").replicas[0].command
    bound = deployed(driver, "--engine", vllm, "-dp", "2", "--numa-bind").replicas[0].command

    assert near[0].argv[:5] == ("taskset", "--cpu-list", str(first), vllm, "serve")
    assert near[1].argv[:4] == ("taskset", "--cpu-list", str(others[0]), vllm)
    assert across.argv[0] == bound.argv[0] == vllm
    said = subprocess.run(
        [*near[0].argv[:3], "grep", "Cpus_allowed_list", "/proc/self/status"],
        capture_output=True,
        timeout=20,
        check=True,
    )
    assert said.stdout.split()[1].decode() == str(first)


def test_gpus_of_another_run_are_refused_unless_both_say_what_they_take(dgx1: Driver, vllm: str) -> None:
    taken = deployed(dgx1, "--engine", vllm, "-dp", "2", "--name", "first", CUDA_VISIBLE_DEVICES="2,1")
    cards = tuple(card for replica in taken.replicas for card in replica.cards)
    assert cards == (uuid(2), uuid(1))
    one = deployed(dgx1, "--engine", vllm, CUDA_VISIBLE_DEVICES="0,1")
    assert gpus(one) == ["0"]
    taken.directory.path.mkdir(parents=True)
    run.write(taken.directory, Record(pids.identify(os.getpid()), "m", "http://127.0.0.1:1", {}, cards=cards))

    with pytest.raises(DpVllmError) as error:
        deployed(dgx1, "--engine", vllm, "-dp", "4")
    assert str(error.value) == (
        f"GPUs 1,2 are used by your run first (process {os.getpid()}, m): end it, choose others with --device-ids, or "
        "let both share by giving each its --gpu-memory-utilization"
    )
    with pytest.raises(DpVllmError, match="GPU 1 is used by your run first"):
        deployed(dgx1, "--engine", vllm, CUDA_VISIBLE_DEVICES=uuid(1))
    with pytest.raises(DpVllmError, match="GPU 1 is used by your run first"):
        one.more(one.replicas, 1, "")
    assert gpus(deployed(dgx1, "--engine", vllm, "-dp", "2", "--device-ids", "0,3")) == ["0", "3"]
    assert gpus(deployed(dgx1, "--engine", vllm, "-dp", "2", "--gpu-memory-utilization", "0.4")) == ["0", "1"]
    assert gpus(deployed(dgx1, "--engine", vllm, "--name", "first", "--device-ids", "1")) == ["1"], (
        "it says that itself"
    )
