"""The folder that each end of an engine leaves which nobody asked for."""

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from dp_vllm.engine.command import Command
from dp_vllm.local.crash_report import Life
from dp_vllm.local.crashes import KEPT, Crashes
from dp_vllm.local.deployment import Replica
from dp_vllm.local.process import Exit, Program

ARGV = ("vllm", "serve", "m", "--api-key", "secret-word")
LIFE = Life(
    number=3,
    ended_at=1_795_300_000.0,
    seconds=312.04,
    ready_seconds=290.0,
    exit=Exit(code=1),
    lines=("INFO begin secret-word", "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB"),
)


def crashes(directory: Path) -> Crashes:
    program = Program("replica-1", ARGV, {"HF_TOKEN": "secret-token", "HOME": "/root"}, directory / "log")
    return Crashes(directory, Replica("1", ("2", "3"), Command(ARGV, {}), "unix:/s"), "vllm 0.32.0", program)


def test_it_says_what_ended_how_and_why_and_what_helps(tmp_path: Path) -> None:
    cause, folder = crashes(tmp_path / "crashes").write(LIFE)
    assert cause is not None and cause.reason == "OutOfGPUMemory"
    assert folder is not None
    ended_at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(LIFE.ended_at))
    assert (
        folder
        == tmp_path / "crashes" / f"{ended_at.translate({ord(c): None for c in ':-Z'}).replace('T', '-')}-replica-1"
    )
    assert json.loads((folder / "report.json").read_text()) == {
        "replica": "1",
        "gpus": ["2", "3"],
        "engine": "vllm 0.32.0",
        "dp_vllm": "0.1.0",
        "command": ["vllm", "serve", "m", "--api-key", "***"],
        "environment": {"HF_TOKEN": "***"},
        "start": 3,
        "ended_at": ended_at,
        "how": "exit status 1",
        "exit_code": 1,
        "signal": None,
        "ran_seconds": 312.0,
        "ready_seconds": 290.0,
        "oom_kills": 0,
        "reason": "OutOfGPUMemory",
        "cause": "the memory of the GPU does not suffice",
        "fix": "see who else uses it, or lower --gpu-memory-utilization",
        "gpu_memory": "",
    }
    page = (folder / "report.txt").read_text()
    assert page.startswith("replica 1 ended: exit status 1\n")
    for words in ("cause        the memory of the GPU does not suffice", "GPU          2, 3", "    INFO begin ***"):
        assert words in page
    assert (folder / "log").read_text() == "INFO begin ***\n" + LIFE.lines[1] + "\n"
    assert not any("secret" in path.read_text() for path in folder.iterdir())


@pytest.mark.parametrize(
    ("life", "reason", "signal"),
    [
        (replace(LIFE, exit=Exit(signal=9), lines=(), oom_kills=1), "OutOfMemory", "SIGKILL"),
        (replace(LIFE, exit=Exit(signal=7), lines=()), "SharedMemoryFull", "SIGBUS"),
        (replace(LIFE, exit=Exit(signal=4), lines=()), "IllegalInstruction", "SIGILL"),
        (replace(LIFE, exit=Exit(signal=9), lines=()), "", "SIGKILL"),
        (replace(LIFE, exit=Exit(), lines=()), "", None),
        (replace(LIFE, exit=None, problem="it cannot be started", lines=("x: Permission denied",)), "", None),
    ],
)
def test_a_cause_is_also_read_from_how_it_ended(tmp_path: Path, life: Life, reason: str, signal: str | None) -> None:
    _, folder = crashes(tmp_path).write(life)
    assert folder is not None
    report = json.loads((folder / "report.json").read_text())
    assert (report["reason"], report["signal"]) == (reason, signal)


def test_stacks_and_gpu_memory_are_added(tmp_path: Path) -> None:
    made = crashes(tmp_path)
    _, folder = made.write(replace(LIFE, problem="it hung", lines=(), stacks="Thread secret-token\n"))
    assert folder is not None
    made.add_gpu_memory(folder, "1.0 GiB are free, held by process 7 (somebody: python --token secret-token)")
    assert (folder / "stacks.txt").read_text() == "Thread ***\n"
    page = (folder / "report.txt").read_text()
    assert "not known; see stacks.txt" in page
    assert "GPU memory   1.0 GiB are free, held by process 7 (somebody: python --token ***)" in page
    assert json.loads((folder / "report.json").read_text())["gpu_memory"].startswith("1.0 GiB")


def test_the_newest_are_kept_and_what_is_not_ours(tmp_path: Path) -> None:
    (tmp_path / "of-somebody-else").mkdir()
    made = crashes(tmp_path)
    folders = [made.write(replace(LIFE, ended_at=LIFE.ended_at + number))[1] for number in range(KEPT + 2)]
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"of-somebody-else", *(folder.name for folder in folders[2:] if folder)}


def test_two_at_the_same_second_have_a_folder_each(tmp_path: Path) -> None:
    made = crashes(tmp_path)
    folders = {made.write(LIFE)[1] for _ in range(3)}
    assert len(folders) == 3 and None not in folders


def test_where_nothing_can_be_written_the_cause_is_still_known(tmp_path: Path) -> None:
    (tmp_path / "crashes").write_text("a file")
    cause, folder = crashes(tmp_path / "crashes").write(LIFE)
    assert cause is not None and folder is None
