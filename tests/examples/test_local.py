"""The examples for one machine: their command lines are understood, and their limits fit together."""

import configparser
import shlex
from pathlib import Path
from typing import Any

import programs
import pytest
import wire
import yaml

from dp_vllm import __version__
from dp_vllm.local import command_line
from dp_vllm.local.command_line import Request
from dp_vllm.local.orders import KILL_SECONDS
from examples.documents import COMPOSE, FOLDER, head

UNIT = FOLDER / "dp-vllm.service"

each = pytest.mark.parametrize("file", [COMPOSE, UNIT], ids=lambda file: file.name)


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())["services"]
    return found


def understood(words: list[str], directory: str) -> Request:
    found = command_line.understand([*words, "--engine", "sim"], {"XDG_RUNTIME_DIR": directory, "HOME": "/nowhere"})
    assert found is not None
    return found


def seconds_to_end(request: Request) -> float:
    return request.deployment.shutdown_timeout_seconds + KILL_SECONDS


@each
def test_it_says_what_it_is_for_what_it_needs_and_what_to_change(file: Path) -> None:
    said = head(file)
    assert "\n\nNeeds: " in said and "\nChange: " in said and f"examples/{file.name}" in said


def test_the_unit_runs_what_serve_understands_and_leaves_it_time(tmp_path: Path) -> None:
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(UNIT.read_text())
    service = unit["Service"]
    program, command, *words = shlex.split(service["ExecStart"])

    assert (program, command) == ("/opt/dp-vllm/bin/dp-vllm", "serve")
    request = understood(words, str(tmp_path))
    assert len(request.deployment.replicas) == 4 and request.deployment.warnings == ()
    assert seconds_to_end(request) < float(service["TimeoutStopSec"])
    assert service["Type"] == "notify" and service["KillMode"] == "mixed"
    assert service["Environment"] == f"XDG_RUNTIME_DIR=/run/{service['RuntimeDirectory']}"


def test_images_are_of_this_version_and_ports_are_this_machines_alone(services: dict[str, Any]) -> None:
    assert {service["image"].partition(":")[2] for service in services.values()} == {__version__}
    assert {port for service in services.values() for port in service.get("ports", ())} == {"127.0.0.1:8000:8000"}


def test_the_container_with_gpus_runs_what_serve_understands(services: dict[str, Any], tmp_path: Path) -> None:
    request = understood(services["gpu"]["command"], str(tmp_path))
    assert len(request.deployment.replicas) == 4
    assert seconds_to_end(request) < float(services["gpu"]["stop_grace_period"].removesuffix("s"))


def test_the_simulated_engines_answer_through_the_gateway(services: dict[str, Any], tmp_path: Path) -> None:
    engines = {name: service for name, service in services.items() if name.startswith("engine-")}
    (model,) = engines["engine-0"]["command"]
    assert engines["engine-1"]["command"] == [model]
    with programs.sim(tmp_path, model=model) as first, programs.sim(tmp_path, model=model) as second:
        urls = {"http://engine-0:8000": first.url, "http://engine-1:8000": second.url}
        words = services["gateway"]["command"]
        assert urls.keys() <= set(words)
        with programs.gateway(tmp_path, *(urls.get(word, word) for word in words)) as gateway:
            answered_by = {
                wire.complete(gateway.url, prompt=f"{number}").headers["x-dp-vllm-replica"] for number in range(4)
            }
    assert len(answered_by) == 2
