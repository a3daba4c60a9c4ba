"""Runs a container of an image under test until a `with` block ends."""

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import openai
import programs
from docker.engine import Engine
from openai.types.chat import ChatCompletionUserMessageParam

MODEL: Final = "demo/model"
START_SECONDS: Final = 40.0


@dataclass(frozen=True, slots=True)
class Container:
    """A container that was started by a test."""

    docker: Engine
    id: str

    @property
    def url(self) -> str:
        """Where port 8000 of the container is reached from this machine."""
        return f"http://{self.docker.run('port', self.id, '8000/tcp').splitlines()[0]}"

    def logs(self) -> str:
        done = self.docker.ended("logs", self.id)
        return done.stdout + done.stderr

    def state(self, field: str) -> str:
        """A field of `docker inspect`'s State."""
        return self.docker.run("inspect", "--format", f"{{{{.State.{field}}}}}", self.id)

    def python(self, code: str, *words: str) -> str:
        """What the container's Python prints when it runs `code`."""
        return self.docker.run("exec", self.id, "python3", "-I", "-c", code, *words)

    def await_answer(self, path: str = "/health") -> None:
        """Wait until the container answers 200 at `path`."""
        self._await(lambda: programs.answers(self.url + path), f"{path} is answered")

    def await_healthy(self) -> None:
        """Wait until docker's own health check is content."""
        self._await(lambda: self.state("Health.Status") == "healthy", "the container is healthy")

    def stop(self) -> int:
        """Its exit status after `docker stop`: 137 if it had to be killed, which docker does after 10 s."""
        self.docker.run("stop", self.id)
        return int(self.state("ExitCode"))

    def processes(self) -> list[str]:
        """The command lines of this machine's processes that belong to the container: its own, and docker's for it."""
        return [line for folder in Path("/proc").glob("[0-9]*") if (line := _command_line(folder, self.id))]

    def client(self) -> openai.OpenAI:
        """To be used in a `with` block."""
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=30)

    def _await(self, condition: Callable[[], bool], what: str) -> None:
        """Wait for `condition`; fail with the container's logs if it ends before."""
        programs.wait_until(lambda: self._has_ended() or condition(), what, START_SECONDS)
        assert not self._has_ended(), self.logs()

    def _has_ended(self) -> bool:
        return self.state("Running") != "true"


@contextlib.contextmanager
def running(docker: Engine, tag: str, *words: str, options: tuple[str, ...] = ()) -> Iterator[Container]:
    """`docker run` in the background, port 8000 on a free port of loopback; removed when the block ends."""
    container = Container(docker, docker.run("run", "--detach", "--publish=127.0.0.1::8000", *options, tag, *words))
    try:
        yield container
    finally:
        docker.ended("rm", "--force", "--volumes", container.id)


@contextlib.contextmanager
def network(docker: Engine) -> Iterator[str]:
    """A network on which containers find each other by name."""
    name = docker.run("network", "create", f"dp-vllm-test-{os.getpid()}")
    try:
        yield name
    finally:
        docker.run("network", "rm", name)


def streamed_chat(client: openai.OpenAI) -> list[str]:
    """The pieces of text of one streamed answer, which must be whole."""
    pieces, reasons = [], []
    question: ChatCompletionUserMessageParam = {"role": "user", "content": "Who are you?"}
    for chunk in client.chat.completions.create(model=MODEL, messages=[question], max_tokens=16, stream=True):
        pieces += [choice.delta.content for choice in chunk.choices if choice.delta.content]
        reasons += [choice.finish_reason for choice in chunk.choices if choice.finish_reason]
    assert len(reasons) == 1 and re.fullmatch("stop|length", reasons[0])
    return pieces


def answered_by(client: openai.OpenAI, requests: int) -> set[str]:
    """The replicas that answer this many requests, one after the other."""
    create = client.completions.with_raw_response.create
    answers = [create(model=MODEL, prompt="Hello", max_tokens=1) for _ in range(requests)]
    return {answer.headers["x-dp-vllm-replica"] for answer in answers}


def _command_line(folder: Path, container_id: str) -> str:
    """The command line of a process if it has to do with the container, else empty."""
    try:
        line = (folder / "cmdline").read_text(errors="replace").replace("\0", " ")
        return line if container_id in line or container_id in (folder / "cgroup").read_text() else ""
    except OSError:
        return ""
