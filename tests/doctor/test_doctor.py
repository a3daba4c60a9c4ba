"""`dp-vllm doctor` as a shell sees it, on machines that a stand-in driver makes up."""

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import downloads
import pytest
from doctor.conftest import QWEN, make_model
from downloads import Hub
from ports import free_port
from topology.stand_in_driver import Driver, bus, uuid

from dp_vllm import hub as hub_api
from dp_vllm.doctor import command, nvml
from dp_vllm.local import pids, run
from dp_vllm.local.run_directory import RunDirectory

MODELS = """\
kind: DPModel
apiVersion: dpvllm.io/v1alpha1
metadata: {{name: chat}}
spec: {{model: {large}, tensorParallelSize: 2, cache: {{hostPath: /data}}}}
---
kind: DPModel
apiVersion: dpvllm.io/v1alpha1
metadata: {{name: embed}}
spec:
  model: {small}
  replicas: 2
  engine: {{args: [--max-model-len, 100K, --gpu-memory-utilization, "0.5"]}}
"""
Look = Callable[..., "Report"]
PROGRAM = str(Path(sys.executable).with_name("dp-vllm"))


@dataclass(frozen=True, slots=True)
class Report:
    """What was found, as (level, sentence) by subject."""

    status: int
    lines: list[dict[str, str]]

    def of(self, subject: str) -> list[tuple[str, str]]:
        return [(one["level"], one["found"]) for one in self.lines if one["subject"] == subject]

    @property
    def problems(self) -> list[str]:
        return [f"{one['subject']}: {one['found']}" for one in self.lines if one["level"] == "problem"]


@pytest.fixture
def look(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Look:
    """Ask the doctor in an environment of the test's own."""

    def report(*words: str, port: int = 0, **environ: str) -> Report:
        base = {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path), "HF_HUB_OFFLINE": "1"}
        address = ("--port", str(port or free_port()), "--host", "127.0.0.1")
        status = command.main([*words, *address, "--json"], base | environ)
        return Report(status, json.loads(capsys.readouterr().out)["findings"])

    return report


def shell(tmp_path: Path, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)} | environ
    return subprocess.run([PROGRAM, "doctor", *words], env=env, capture_output=True, text=True, timeout=50, check=False)


def machine(count: int, *further: str, free: int = 80_000) -> list[str]:
    """GPUs of 80 GiB with four NVLinks to a switch each."""
    return [
        "driver 570.1 12080",
        *(f"gpu {uuid(index)} {bus(index)} 1 0" for index in range(count)),
        *(f"nvlink {index} 2 -" for index in range(count) for _ in range(4)),
        *(f"card {index} 81920 {free if index == 0 else 81_000} 90 NVIDIA H100" for index in range(count)),
        *further,
    ]


def test_a_machine_where_all_is_well(look: Look, driver: Driver, vllm: Path, tmp_path: Path) -> None:
    driver.says(machine(4))
    model = make_model(tmp_path / "qwen", 15.3)

    found = look(str(model), "-dp", "2", "-tp", "2", "--engine", str(vllm), **driver.environ)

    assert (found.status, found.problems) == (0, [])
    assert found.of("engine") == [("ok", f"vllm 0.32.0 at {vllm}")]
    assert found.of("GPUs") == [("ok", "4 x NVIDIA H100 (80.0 GiB), driver 570.1")]
    assert found.of("CUDA") == [("ok", "PyTorch 2.9.0+cu128 needs 12.8, the driver has 12.8")]
    assert found.of("replicas") == [("ok", "2, GPUs of 0: 0,1; 1: 2,3")]
    assert found.of("links") == [("ok", "replica 0: NV4; replica 1: NV4")]
    assert found.of("GPU memory") == [("ok", "nobody else holds memory of GPU 0,1,2,3")]
    assert found.of("architecture") == [("ok", "Qwen3ForCausalLM")]
    assert found.of("tp") == [("ok", "16 of 32 attention heads on each GPU")]
    assert found.of("memory") == [
        (
            "ok",
            "7.6 GiB of weights on each GPU, which may hold 73.6 GiB of 80.0 GiB; "
            "room for at most 960,466 tokens of KV cache",
        )
    ]


def test_what_would_fail_is_said_with_who_is_to_blame(look: Look, driver: Driver, vllm: Path, tmp_path: Path) -> None:
    driver.says(["driver 470.2 11040", *machine(2, "holder 0 99999999", free=20_000)[1:]])
    model = make_model(tmp_path / "large", 300, QWEN | {"architectures": ["NewForCausalLM"]})
    words = (str(model), "-tp", "2", "-pp", "1", "--max-model-len", "100K", "--engine", str(vllm))

    found = look(*words, **driver.environ)

    assert found.status == 1
    assert found.problems == [
        "CUDA: PyTorch 2.9.0+cu128 needs CUDA 12.8, the driver 470.2 has 11.4",
        "GPU memory: GPU 0: 19.5 GiB of 80.0 GiB are free, held by process 99999999, which cannot be seen from here",
        "length: --max-model-len 102400 is more than the 40960 tokens that the model knows",
        "memory: 150.0 GiB of weights on each GPU, which may hold 73.6 GiB of 80.0 GiB",
    ]
    assert found.of("architecture")[0][0] == "warning"


def test_each_model_of_a_file_is_looked_at(look: Look, driver: Driver, vllm: Path, tmp_path: Path) -> None:
    driver.says(machine(4))
    large, small = make_model(tmp_path / "large", 300), make_model(tmp_path / "small", 15.3)
    file = tmp_path / "models.yaml"
    file.write_text(MODELS.format(large=large, small=small))

    found = look("-f", str(file), "--engine", str(vllm), **driver.environ)

    assert found.of("replicas") == [("ok", "3, GPUs of chat-0: 0,1; embed-0: 2; embed-1: 3")]
    assert found.of("tp") == [("ok", "chat: 16 of 32 attention heads on each GPU")]
    assert found.problems == [
        "memory: chat: 150.0 GiB of weights on each GPU, which may hold 73.6 GiB of 80.0 GiB",
        "length: embed: --max-model-len 102400 is more than the 40960 tokens that the model knows",
    ]
    assert found.of("memory")[1][1].startswith("embed: 15.3 GiB of weights on each GPU, which may hold 40.0 GiB of 80")
    assert [level for level, said in found.of("file") if "chat: for a cluster alone" in said] == ["warning"]


def test_gpus_that_another_run_has(look: Look, driver: Driver, vllm: Path, tmp_path: Path) -> None:
    driver.says(machine(2))
    record = run.Record(pids.identify(os.getpid()), "m", "http://127.0.0.1:1", {}, cards=(uuid(1),))
    (tmp_path / "dp-vllm" / "other").mkdir(parents=True)
    run.write(RunDirectory(tmp_path / "dp-vllm" / "other", tmp_path), record)

    found = look("-dp", "2", "--engine", str(vllm), **driver.environ)

    ((level, said),) = found.of("replicas")
    assert level == "problem" and said.startswith("GPU 1 is used by your run other (process")


def test_a_divided_gpu_and_links_that_are_down(look: Look, driver: Driver, vllm: Path, tmp_path: Path) -> None:
    weak = [line for line in machine(3) if line != "nvlink 2 2 -"]
    driver.says([*weak, "nvlink 2 2 -", "nvlink 2 2 -", "mig 1 MIG-a", "fabric 0 2"])

    found = look("--engine", str(vllm), **driver.environ)

    assert found.of("NVLink")[0] == ("problem", "the switches between the GPUs 0 are not set up")
    assert [level for level, _ in found.of("MIG")] == ["warning"]
    assert found.of("replicas") == [
        ("problem", "GPU 1 is divided (MIG), so its parts must be named: set CUDA_VISIBLE_DEVICES=MIG-a")
    ]


def test_a_driver_that_hangs_is_given_up(driver: Driver) -> None:
    driver.says([*machine(2), "hang nvmlDeviceGetMemoryInfo"])
    assert nvml.ask(driver.environ, limit_seconds=0.5).problem == (
        "the driver did not answer within 0.5 s (does nvidia-smi hang too?)"
    )


def test_a_machine_without_gpu_and_without_vllm_is_told_what_to_do(tmp_path: Path) -> None:
    done = shell(tmp_path, PATH="/nowhere", LD_LIBRARY_PATH="/nowhere")

    assert (done.returncode, done.stderr) == (1, "")
    assert "\nproblem  GPUs           there is no NVIDIA driver here" in "\n" + done.stdout
    assert "--engine sim" in done.stdout
    assert re.search(r"\n[2-9] problems, \d+ warnings?\.\n$", done.stdout), "others are this machine's own"


def test_the_simulated_engine_needs_nothing(look: Look, tmp_path: Path) -> None:
    found = look("demo/model", "--engine", "sim", "-dp", "4")
    assert (found.status, {one["level"] for one in found.lines}) == (0, {"ok"})
    assert found.of("replicas") == [("ok", "4, without GPUs")]


def test_a_port_that_is_taken(look: Look) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        found = look("m", "--engine", "sim", port=port)
    ((level, said),) = found.of("endpoint")
    assert level == "problem" and said.startswith(f"--port: {port} is taken by process {os.getpid()} (")


def test_flags_are_read_as_serve_reads_them(tmp_path: Path) -> None:
    wrong = shell(tmp_path, "m", "-tp", "none")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr == "dp-vllm: -tp: 'none' is not allowed; allowed are whole numbers from 1 on\n"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    with downloads.hub(tmp_path_factory.mktemp("hub")) as running:
        make_model(running.root / "org" / "qwen", 15.3)
        make_model(running.root / "org" / "gated", 15.3)
        make_model(running.root / "org" / "huge", 2**14)
        running.fault("/org/gated/resolve", status=403, code="GatedRepo")
        yield running


@pytest.fixture
def at_hub(hub: Hub, tmp_path: Path) -> dict[str, str]:
    """For engines without GPUs, so that no driver is asked."""
    there = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "hf")}
    return {**there, "VLLM_TARGET_DEVICE": "cpu"}


def test_a_model_of_the_hub_is_judged_before_it_is_downloaded(
    look: Look, at_hub: dict[str, str], driver: Driver, vllm: Path, tmp_path: Path
) -> None:
    driver.says(machine(1))
    with_gpu = at_hub | driver.environ | {"VLLM_TARGET_DEVICE": "cuda"}
    found = look("org/qwen", "--engine", str(vllm), **with_gpu)
    ((level, said),) = found.of("disk")
    assert level == "ok" and said.startswith(f"15.3 GiB are to be downloaded to {tmp_path / 'hf' / 'hub'}, ")
    assert found.of("memory")[0][1].startswith("15.3 GiB of weights on each GPU")

    make_model(tmp_path / "hf" / "hub" / "models--org--qwen" / "snapshots" / "main", 15.3)
    assert look("org/qwen", "--engine", str(vllm), **at_hub).of("disk")[0][1].startswith("the weights are in")
    offline = look("org/qwen", "--engine", str(vllm), **at_hub | {"HF_HUB_OFFLINE": "1"})
    assert (offline.status, offline.of("model")[0][0]) == (0, "ok")


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ("org/gated", "model: org/gated is gated, and there is no token (the hub answered 403)"),
        ("org/none", "model: the hub has no org/none, or none that it shows without a token (it answered 401)"),
        ("./none", "model: there is no directory ./none"),
    ],
)
def test_a_model_that_cannot_be_had(model: str, sentence: str, look: Look, at_hub: dict[str, str], vllm: Path) -> None:
    assert look(model, "--engine", str(vllm), **at_hub).problems == [sentence]


def test_a_disk_that_is_too_small(look: Look, at_hub: dict[str, str], vllm: Path) -> None:
    assert look("org/huge", "--engine", str(vllm), **at_hub).of("disk")[0][0] == "problem"


def test_a_hub_that_is_silent_is_not_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        gone = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        answer = hub_api.ask("org/qwen", "", {"HF_ENDPOINT": gone, "HF_TOKEN": "t"}, limit_seconds=0.2)
    assert answer.silence == f"{gone} did not answer within 0.2 s"
