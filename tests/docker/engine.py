"""A Docker engine, as its command line shows it: one that runs already, or one that is started for the occasion."""

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from docker.daemon import running
from docker.debian import Failed, environment

OWN_VARIABLE: Final = "DP_VLLM_TEST_DOCKER"
"""Environment variable that `run.py` sets for the tests: `own` if the engine is ours alone, else `found`."""

_SECONDS: Final = 60.0
_KEPT_BUILD: Final = "4GB"
"""How much of what builds have cached stays for the next."""


class NoEngine(Exception):
    """There is no Docker engine and none can be started; the message is one line that says why."""


class CommandFailed(Exception):
    """A docker command ended with an error; the message has its output."""


@dataclass(frozen=True, slots=True)
class Engine:
    """Where docker commands go."""

    variables: Mapping[str, str]
    own: bool
    """Whether nobody else uses it: it has no images but ours, and runs as long as we do."""

    def run(self, *words: str, seconds: float = _SECONDS) -> str:
        """What `docker WORDS` prints to standard output, without white space around it."""
        done = self.ended(*words, seconds=seconds)
        if done.returncode:
            raise CommandFailed(f"docker {' '.join(words)} ended with {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout.strip()

    def ended(self, *words: str, seconds: float = _SECONDS) -> subprocess.CompletedProcess[str]:
        """How `docker WORDS` ended, well or not."""
        return subprocess.run(
            ["docker", *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            env=self.environment(),
        )

    def environment(self) -> dict[str, str]:
        """The environment in which `docker` finds this engine."""
        return {**os.environ, **self.variables}


def given() -> Engine:
    """The engine that `run.py` found or started before these tests."""
    own = os.environ.get(OWN_VARIABLE)
    assert own, "tests marked `docker` need the engine that `make test-docker` finds or starts"
    return Engine({}, own=own == "own")


@contextlib.contextmanager
def found_or_started() -> Iterator[Engine]:
    """The engine that `docker` finds by itself, or one that is started now and ends with the block."""
    why_none = _why_none_runs()
    if not why_none:
        yield Engine({"DOCKER_BUILDKIT": "1", OWN_VARIABLE: "found"}, own=False)
        return
    if os.environ.get("DOCKER_HOST"):
        raise NoEngine(f"DOCKER_HOST is set, but {why_none}")
    if os.geteuid() != 0:
        raise NoEngine(f"{why_none}, and only root can start one")
    if not shutil.which("apt-get"):
        raise NoEngine(f"{why_none}, and only Debian's can be started, with apt-get, which is not here")
    with contextlib.ExitStack() as stack:
        try:
            host = stack.enter_context(running())
        except (Failed, OSError, subprocess.SubprocessError) as error:
            raise NoEngine(f"{why_none}, and none could be started: {error}") from error
        settings = stack.enter_context(tempfile.TemporaryDirectory())
        ours = {"DOCKER_HOST": host, "DOCKER_CONFIG": settings, "DOCKER_BUILDKIT": "1", OWN_VARIABLE: "own"}
        # The libraries are for the daemon; a Python that finds them may not be built for them.
        path = environment()["PATH"]
        engine = Engine({**ours, "PATH": f"{path}:{os.environ['PATH']}"}, own=True)
        engine.run("system", "prune", "--force")  # what a killed test run has left
        try:
            yield engine
        finally:
            engine.ended("builder", "prune", "--force", f"--keep-storage={_KEPT_BUILD}")


def _why_none_runs() -> str:
    """Empty if an engine answers."""
    if not shutil.which("docker"):
        return "there is no docker command"
    command = ["docker", "version", "--format", "{{.Server.Version}}"]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_SECONDS)
    except subprocess.TimeoutExpired:
        return f"the Docker engine did not answer within {_SECONDS:g} s"
    return "" if done.returncode == 0 else "no Docker engine answers"
