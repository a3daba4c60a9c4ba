"""Builds the images of `docker/Dockerfile`."""

import json
import os
import re
import subprocess
import time
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from docker.debian import compiler_root, python_root
from docker.engine import Engine

ROOT: Final = Path(__file__).parents[2]
DOCKERFILE: Final = ROOT / "docker" / "Dockerfile"
TARGETS: Final = ("gateway", "sim", "operator", "dp-vllm")
TEST_REPOSITORY: Final = "dp-vllm-test"

LABELS: Final = ("title", "description", "licenses", "vendor", "url", "source", "documentation",
                 "version", "created")  # fmt: skip
"""What every image says of itself, each after `org.opencontainers.image.`; built from a checkout also `revision`."""

_BUILD_SECONDS: Final = 1800.0


@dataclass(frozen=True, slots=True)
class Image:
    """An image that was built."""

    target: str
    tag: str
    size_bytes: int
    seconds: float

    def __str__(self) -> str:
        return f"{self.tag:<40} {self.size_bytes / 1e6:>8,.0f} MB  built in {self.seconds:.0f} s"


def build(docker: Engine, targets: Sequence[str], repository: str, words: Sequence[str]) -> Iterator[Image]:
    """Build each target as REPOSITORY/TARGET:VERSION; `words` are further ones for `docker build`."""
    labels = {"version": version(), "revision": _revision(), "created": datetime.now(UTC).isoformat(timespec="seconds")}
    for target in targets:
        started = time.monotonic()
        name = tag(target, repository)
        docker.run(
            "build",
            *("--file", str(DOCKERFILE), "--target", target, "--tag", name),
            *(
                word
                for name, value in labels.items()
                for word in ("--label", f"org.opencontainers.image.{name}={value}")
            ),
            *_certificates(),
            *words,
            str(ROOT),
            seconds=_BUILD_SECONDS,
        )
        size = int(docker.run("image", "inspect", "--format", "{{.Size}}", name))
        yield Image(target, name, size, time.monotonic() - started)


def missing_labels(docker: Engine, image: Image) -> list[str]:
    """Labels that the image lacks, or that are empty."""
    labels = json.loads(docker.run("image", "inspect", "--format", "{{json .Config.Labels}}", image.tag)) or {}
    return [name for name in LABELS if not labels.get(f"org.opencontainers.image.{name}")]


def tag(target: str, repository: str = TEST_REPOSITORY) -> str:
    """The name of an image, with its version."""
    return f"{repository}/{target}:{version()}"


def version() -> str:
    """The version that is being built."""
    return str(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"])


def default_base(argument: str) -> str:
    """The image that the Dockerfile names for PYTHON_BASE, COMPILER_BASE or VLLM_BASE."""
    (name,) = re.findall(rf"^ARG {argument}=(\S+)$", DOCKERFILE.read_text(), re.MULTILINE)
    return str(name)


def import_bases(docker: Engine) -> None:
    """Give an engine without a registry Debians with Python under the names that the Dockerfile says."""
    for argument, root in (("PYTHON_BASE", python_root), ("COMPILER_BASE", compiler_root)):
        name = default_base(argument)
        if docker.ended("image", "inspect", name).returncode:
            docker.run("import", "--change", 'CMD ["python3"]', str(root()), name, seconds=300)


def _certificates() -> list[str]:
    """Tell the build of a certificate bundle that this machine's package indexes need."""
    bundle = os.environ.get("PIP_CERT") or os.environ.get("SSL_CERT_FILE")
    if not bundle:
        return []
    inside = "/run/secrets/ca"
    return [
        "--secret",
        f"id=ca,src={bundle}",
        "--build-arg",
        f"PIP_CERT={inside}",
        "--build-arg",
        f"SSL_CERT_FILE={inside}",
    ]


def _revision() -> str:
    """The commit that is built, empty outside a git checkout."""
    done = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True)
    return done.stdout.strip()
