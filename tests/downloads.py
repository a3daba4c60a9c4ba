"""Runs the download Job's program against a hub of our own, `fake_hub.py`."""

import contextlib
import os
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import fake_hub
import pods
import programs
from ports import free_port
from wire import ask

PROGRAM = str(pods.IN_POD / "download.py")


@dataclass(frozen=True, slots=True)
class Hub:
    """A running hub."""

    url: str
    root: Path

    def add(self, name: str, **sizes: int) -> Path:
        """A model whose files have these sizes; `__` stands for a dot, `___` for a slash."""
        for encoded, size in sizes.items():
            path = self.root / name / encoded.replace("___", "/").replace("__", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                file.truncate(size)
        return self.root / name

    def fault(self, path: str, **fault: object) -> None:
        assert ask(self.url, "POST", "/fault", {"path": path, **fault}).status == 200

    def heal(self) -> None:
        assert ask(self.url, "DELETE", "/fault").status == 200

    def requests(self) -> list[str]:
        """The requests so far."""
        said: list[str] = ask(self.url, "GET", "/log").json()
        return said


@contextlib.contextmanager
def hub(directory: Path) -> Iterator[Hub]:
    """A hub, until the block ends."""
    root, port = directory / "models", free_port()
    root.mkdir()
    url = f"http://127.0.0.1:{port}"
    argv = programs.python(fake_hub.__file__, str(port), str(root))
    with programs.running(argv, directory / "hub.log", ready=lambda: programs.answers(url + "/log")):
        yield Hub(url, root)


@dataclass(frozen=True, slots=True)
class Job:
    """What a Job gives to its container."""

    hub: str
    home: Path
    message: Path
    """The file of the termination message."""
    python: str

    @property
    def environment(self) -> dict[str, str]:
        """Without what a machine may say about hubs."""
        others = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        return {
            **others,
            "HF_ENDPOINT": self.hub,
            "HF_HOME": str(self.home),
            "DP_VLLM_TERMINATION_LOG": str(self.message),
        }

    def argv(self, *arguments: str) -> list[str]:
        return [self.python, "-I", PROGRAM, "--progress-seconds", "0.1", *arguments]

    def run(self, *arguments: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run it to its end."""
        environment = {**self.environment, **(env or {})}
        return subprocess.run(self.argv(*arguments), env=environment, capture_output=True, text=True, timeout=50)
