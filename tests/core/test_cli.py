"""The `dp-vllm` command, as a shell sees it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import programs
import pytest
from ports import free_port

from dp_vllm import __version__
from dp_vllm.local.flags.settings import SETTINGS

PROGRAM = str(Path(sys.executable).with_name("dp-vllm"))


def run(*argv: str, **environ: str) -> subprocess.CompletedProcess[str]:
    base = {name: value for name, value in os.environ.items() if not name.startswith(("CUDA", "VLLM", "DP_VLLM"))}
    return subprocess.run(argv, capture_output=True, text=True, env=base | environ, timeout=30, check=False)


def serve(*words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return run(PROGRAM, "serve", *words, **environ)


@pytest.mark.parametrize("program", [[PROGRAM], [sys.executable, "-m", "dp_vllm"]])
def test_the_version_is_told(program: list[str]) -> None:
    assert run(*program, "--version").stdout == f"dp-vllm {__version__}\n"


def test_the_commands_are_listed() -> None:
    told = run(PROGRAM, "--help").stdout

    assert all(command in told for command in ("serve", "gateway", "sim"))


def test_help_tells_ours_with_their_defaults_and_some_of_the_engines() -> None:
    told = serve("--help", COLUMNS="100")

    assert told.returncode == 0
    for setting in SETTINGS.values():
        name = f"--no-{setting.name[2:]}" if setting.default == "yes" else setting.name
        assert f"{name} {setting.value}".rstrip() in told.stdout
    assert "every other flag goes to each engine exactly as typed" in told.stdout
    assert "--max-model-len LENGTH" in told.stdout
    assert max(map(len, told.stdout.splitlines())) <= 100


def test_a_dry_run_prints_commands_that_a_shell_takes(tmp_path: Path) -> None:
    told = serve(
        *("org/model", "--engine", "sim", "-dp", "2", "-tp", "2", "--dry-run", "--uds", str(tmp_path / "s")),
        *("--speculative-config", '{"method": "ngram"}'),
        CUDA_VISIBLE_DEVICES="0,1,2,3",
        XDG_RUNTIME_DIR=str(tmp_path),
    )

    assert (told.returncode, told.stderr) == (0, "")
    lines = told.stdout.splitlines()
    assert lines[0].split() == ["endpoint", f"unix:{tmp_path}/s", "for", "org/model", "(sim)"]
    assert [line.split()[-1] for line in lines if "GPUs" in line] == ["0,1", "2,3"]
    (second,) = [line for line in lines if "--uds" in line and "replica-1.sock" in line]
    assert 'dp_vllm.sim org/model --speculative-config \'{"method": "ngram"}\' --tensor-parallel-size 2' in second
    assert any("CUDA_VISIBLE_DEVICES=2,3 CUDA_DEVICE_ORDER=PCI_BUS_ID" in line for line in lines)
    assert not (tmp_path / "dp-vllm").exists()


def test_a_dry_run_is_told_as_json_too_and_without_keys(tmp_path: Path) -> None:
    secrets = ("--api-key", "hunter2", "--hf-token", "hunter2", "--speculative-config", '{"token": "hunter2"}')
    told = serve("m", "--engine", "sim", "--dry-run", "--json", *secrets, XDG_RUNTIME_DIR=str(tmp_path))

    content = json.loads(told.stdout)
    assert content["replicas"][0]["command"][1:5] == ["-I", "-m", "dp_vllm.sim", "m"]
    assert content["files"] == [str(tmp_path / "dp-vllm" / "8000" / "keys")]
    assert "hunter2" not in told.stdout


def test_a_value_that_is_not_allowed_is_one_line_and_status_2() -> None:
    told = serve("m", "--port", "x")

    assert (told.returncode, told.stdout) == (2, "")
    assert told.stderr == "dp-vllm: --port: 'x' is not allowed; allowed are ports from 1 to 65535\n"


def test_what_cannot_be_done_is_one_line_and_status_1(tmp_path: Path) -> None:
    told = serve("m", "--engine", "sim", "-dp", "4", "-tp", "2", CUDA_VISIBLE_DEVICES="0,1,2,3")

    assert (told.returncode, told.stdout) == (1, "")
    assert told.stderr == (
        "dp-vllm: needs dp*tp*pp = 4*2*1 = 8 GPUs, CUDA_VISIBLE_DEVICES has 4 (0,1,2,3); "
        "the simulated engine needs none: unset CUDA_VISIBLE_DEVICES\n"
    )


def test_an_open_endpoint_is_warned_of_on_stderr() -> None:
    told = serve("m", "--engine", "sim", "--dry-run", "--json")

    assert told.stderr.startswith("dp-vllm: warning: everybody who reaches this machine can use the endpoint: ")
    assert told.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["server"], "no such command 'server'. Did you mean 'serve'? (`dp-vllm --help` shows what there is)"),
        (["drain"], "missing argument 'REPLICA...' (`dp-vllm drain --help` shows what there is)"),
    ],
)
def test_a_command_that_cannot_be_is_one_line_and_status_2(words: list[str], sentence: str) -> None:
    told = run(PROGRAM, *words)
    assert (told.returncode, told.stderr) == (2, f"dp-vllm: {sentence}\n")


WITHOUT = """
import runpy, sys
missing, module, *sys.argv[1:] = sys.argv[1:]
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in missing.split(","):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""
"""Runs a module where some packages are not installed."""

OPERATOR = "dp-vllm operator: needs kopf and the Kubernetes client: pip install 'dp-vllm[operator]'\n"
EXTRAS = "kopf,kubernetes,PIL,vllm,uvloop,huggingface_hub"


@pytest.mark.parametrize(
    ("missing", "words", "ends"),
    [
        ("kopf", ["dp_vllm_operator", "--help"], (1, OPERATOR)),
        ("kubernetes", ["dp_vllm_operator", "--namespace", "x"], (1, OPERATOR)),
        (EXTRAS, ["dp_vllm_gateway", "--help"], (0, "")),
        (EXTRAS, ["dp_vllm.sim", "--help"], (0, "")),
        (EXTRAS, ["dp_vllm", "serve", "m", "--engine", "sim", "--host", "127.0.0.1", "--dry-run"], (0, "")),
    ],
)
def test_what_is_not_installed_is_named_and_needed_by_nothing_else(
    missing: str, words: list[str], ends: tuple[int, str]
) -> None:
    told = run(sys.executable, "-c", WITHOUT, missing, *words)
    assert (told.returncode, told.stderr) == ends


def test_sim_becomes_the_simulated_engine(tmp_path: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    argv = [PROGRAM, "sim", "demo/model", "--host", "127.0.0.1", "--port", str(port)]

    with programs.running(argv, tmp_path / "log", url=url, ready=lambda: programs.answers(url + "/health")) as program:
        words = Path(f"/proc/{program.pid}/cmdline").read_text().split("\0")

    assert words[1:5] == ["-I", "-m", "dp_vllm.sim", "demo/model"]


def test_gateway_becomes_the_gateway(tmp_path: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    argv = [PROGRAM, "gateway", "--replica", "http://127.0.0.1:1", "--host", "127.0.0.1", "--port", str(port)]

    with programs.running(argv, tmp_path / "log", url=url, ready=lambda: programs.answers(url + "/ready")) as program:
        words = Path(f"/proc/{program.pid}/cmdline").read_text().split("\0")

    assert words[1:4] == ["-I", "-m", "dp_vllm_gateway"]
