"""Shared memory of killed engines: theirs goes, and nothing else ever does."""

import contextlib
import os
import signal
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from programs import Program, running, wait_until

from dp_vllm.local import segments
from dp_vllm.local.segments import SHM, Segments

MAP = """
import mmap, multiprocessing, sys, time
maps = []
for path in sys.argv[1:]:
    with open(path, "r+b") as file:
        maps.append(mmap.mmap(file.fileno(), 0))
print("mapped", flush=True)
time.sleep(600)
"""
PARENT = "import subprocess, sys; subprocess.run([sys.executable, '-c', *sys.argv[1:]])"


@contextlib.contextmanager
def mapping(log: Path, *paths: Path) -> Iterator[Program]:
    """A program whose child maps these files."""
    with running([sys.executable, "-c", PARENT, MAP, *map(str, paths)], log) as program:
        wait_until(lambda: "mapped" in program.output(), lambda: f"the files are mapped: {program.output()}")
        yield program


NAMES = ("psm_%s", "sem.mp-%s", "nccl-%s", "torch_7_%s_0", "vllm_dist_%s-tp:0-[0-1]-cpushm_0", "vllm_offload_%s.mmap")


@pytest.fixture(params=NAMES[:1])
def made(request: pytest.FixtureRequest) -> Iterator[dict[str, Path]]:
    """Files in /dev/shm: names as an engine's libraries make them, and one as a user does."""
    unique = uuid.uuid4().hex[:8]
    names = {"engine": request.param % unique, "stranger": f"psm_{unique}0", "model": f"model-{unique}.safetensors"}
    paths = {what: SHM / name for what, name in names.items()}
    for path in paths.values():
        path.write_bytes(bytes(4096))
    yield paths
    for path in paths.values():
        path.unlink(missing_ok=True)


@pytest.mark.parametrize("made", NAMES, indirect=True)
def test_what_a_killed_engine_mapped_is_removed_and_nothing_else(tmp_path: Path, made: dict[str, Path]) -> None:
    record = tmp_path / "segments.json"
    watched = Segments(record)
    with mapping(tmp_path / "log", made["engine"], made["model"]):
        watched.look(os.getpid())
        watched.sweep()
        assert made["engine"].exists(), "it is still mapped"
        watched.look(os.getpid())
        assert record.exists()
    watched.sweep()
    assert {what for what, path in made.items() if path.exists()} == {"stranger", "model"}
    assert not record.exists()


def test_another_file_that_got_the_name_stays(tmp_path: Path, made: dict[str, Path]) -> None:
    watched = Segments(tmp_path / "segments.json")
    with mapping(tmp_path / "log", made["engine"]):
        watched.look(os.getpid())
    keep = made["engine"].open("rb")  # so that its inode is not given out again
    made["engine"].unlink()
    made["engine"].write_bytes(b"somebody else's")
    watched.sweep()
    keep.close()
    assert made["engine"].read_bytes() == b"somebody else's"


def test_what_another_process_maps_stays(tmp_path: Path, made: dict[str, Path]) -> None:
    record = tmp_path / "segments.json"
    with mapping(tmp_path / "other", made["engine"]) as other:
        Segments(record).look(os.getpid())
        os.killpg(other.pid, signal.SIGSTOP)
        segments.sweep([record])
        assert made["engine"].exists()


def test_records_that_cannot_be_read_are_no_records(tmp_path: Path) -> None:
    broken = tmp_path / "broken.json"
    broken.write_text("[")
    segments.sweep([broken, tmp_path / "missing.json"])
    assert not broken.exists()
