"""The chart, in the hands of helm."""

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

Object = dict[str, Any]

CHART: Final = Path(__file__).parents[2] / "charts" / "dp-vllm"
CI_FILES: Final = sorted((CHART / "ci").glob("*.yaml"))
"""Values with which the chart must work."""


class Refused(Exception):
    """Helm failed; its words."""


@dataclass(frozen=True, slots=True)
class Helm:
    """Runs helm with files of its own."""

    program: str
    environment: Mapping[str, str]

    @classmethod
    def at(cls, program: str, folder: Path) -> "Helm":
        """Keep files in this folder."""
        kept = {f"HELM_{what}_HOME": str(folder / what.lower()) for what in ("CACHE", "CONFIG", "DATA")}
        return cls(program, {**os.environ, **kept})

    def run(self, *words: str) -> str:
        """What it prints. Raises Refused."""
        command = [self.program, *words]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Refused(done.stdout + done.stderr)
        return done.stdout

    def objects(self, *words: str, release: str = "dp-vllm", namespace: str = "ns") -> list[Object]:
        """What the chart would make, tests included."""
        return _read(self.run("template", release, str(CHART), f"--namespace={namespace}", *words))


def _read(text: str) -> list[Object]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the kind's definition is long
    return [body for body in yaml.load_all(text, loader) if body]


def values(**given: str) -> list[str]:
    """Flags that say values; `a__b` is `a.b`."""
    return [word for name, value in given.items() for word in ("--set", f"{name.replace('__', '.')}={value}")]


def of_kind(objects: list[Object], kind: str, name: str = "") -> Object:
    """The only one of a kind, or of those whose name ends so."""
    (found,) = (body for body in objects if body["kind"] == kind and body["metadata"]["name"].endswith(name))
    return found


def pod_of(objects: list[Object]) -> Object:
    """The pod template of the operator."""
    template: Object = of_kind(objects, "Deployment")["spec"]["template"]
    return template


def path_of(body: Object) -> str:
    """Where an object is in the API server; all kinds of the chart have a plural with an `s`."""
    version, name, namespace = body["apiVersion"], body["metadata"]["name"], body["metadata"].get("namespace")
    where = f"/namespaces/{namespace}" if namespace else ""
    return f"/{'apis' if '/' in version else 'api'}/{version}{where}/{body['kind'].lower()}s/{name}"
