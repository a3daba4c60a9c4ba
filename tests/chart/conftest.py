"""What tests of the chart share. Where helm or promtool cannot be had they are left out, and the last lines say why."""

import os
from pathlib import Path

import pytest
from chart.helm import Helm
from cluster import binaries
from left_out import leave_out

PROGRAMS = ("helm", "promtool")


@pytest.fixture(scope="session")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    return Helm.at(_program("helm"), tmp_path_factory.mktemp("helm"))


@pytest.fixture(scope="session")
def promtool() -> Path:
    return Path(_program("promtool"))


def _program(name: str) -> str:
    program = binaries.find(name)
    assert program, binaries.lacking([name])
    return program


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not os.environ.get("CI"):
        leave_out(config, items, _why_not)


def _why_not(item: pytest.Item) -> str:
    lacking = binaries.lacking([name for name in PROGRAMS if name in getattr(item, "fixturenames", ())])
    return f"the chart needs what is not there; {lacking}" if lacking else ""
