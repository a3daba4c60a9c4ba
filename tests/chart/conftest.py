"""What tests of the chart share. Where helm or promtool cannot be had they are left out, and the last lines say why."""

import os
from pathlib import Path

import pytest
from chart.helm import Helm
from cluster import binaries
from cluster.given import AnyCluster
from left_out import leave_out

from dp_vllm import crd

PROGRAMS = ("helm", "promtool")


@pytest.fixture(scope="session")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    return Helm.at(_program("helm"), tmp_path_factory.mktemp("helm"))


@pytest.fixture(scope="session")
def promtool() -> Path:
    return Path(_program("promtool"))


@pytest.fixture(scope="session")
def dpmodels(control_plane: AnyCluster) -> AnyCluster:
    """A control plane with the kind, which is no release's. It stays: other processes of the test run use it too."""
    control_plane.kubectl("apply", "--server-side", "--force-conflicts", "--filename=-", stdin=crd.as_yaml())
    control_plane.kubectl("wait", "--for=condition=Established", f"crd/{crd.NAME}", "--timeout=30s")
    return control_plane


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
