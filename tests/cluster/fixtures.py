"""What tests before a real API server share; and what becomes of them where none can be had.

Such tests are left out, and the last lines say why; but where everything must run (CI is set) they fail.
"""

import functools
import os
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Protocol

import programs
import pytest
import pytest_asyncio
from left_out import leave_out

from dp_vllm import names

from . import audit as audit_log
from .given import KUBECONFIG_VARIABLE, AnyCluster, given_cluster
from .namespaces import new_namespace
from .prerequisites import why_none
from .shared import shared_control_plane

if TYPE_CHECKING:
    from dp_vllm.kubernetes_api import KubernetesApi


class Kubectl(Protocol):
    """Runs kubectl in a test's namespace; its output."""

    def __call__(self, *arguments: str, stdin: str | None = None) -> str: ...


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AnyCluster]:
    """A real API server with its controllers and scheduler, without nodes; one for all processes of a test run."""
    folder = tmp_path_factory.getbasetemp()
    if given := given_cluster():
        yield given
    else:
        with shared_control_plane(folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) as cluster:
            yield cluster


@pytest.fixture(scope="session")
def dpmodels(control_plane: AnyCluster) -> AnyCluster:
    """A control plane that serves DPModels. The definition stays: other processes of the test run use it too."""
    from dp_vllm import crd  # takes a while to import

    control_plane.kubectl("apply", "--server-side", "--force-conflicts", "--filename=-", stdin=crd.as_yaml())
    control_plane.kubectl("wait", "--for=condition=Established", f"crd/{crd.NAME}", "--timeout=30s")
    listed = functools.partial(
        control_plane.kubectl, "api-resources", f"--api-group={names.API_GROUP}", "--cached=false"
    )
    programs.wait_until(lambda: names.PLURAL in listed(), "kubectl knows DPModels")
    return control_plane


@pytest_asyncio.fixture
async def namespace(api: "KubernetesApi", request: pytest.FixtureRequest) -> AsyncIterator[str]:
    """A namespace of the test's own, deleted after. Its pods run on nodes of its own only: see the fixture kubelet.

    On the test bed's own cluster, one that never had nodes nor has pods is left to the end of the run: the deletion
    of a namespace is 80 requests, and there are more than a hundred of these.
    """
    lasting = given_cluster() is None and "kubelet" not in request.fixturenames
    async with new_namespace(api, keep_empty=lasting) as name:
        yield name


@pytest.fixture
def kubectl(control_plane: AnyCluster, namespace: str) -> Kubectl:
    """Runs kubectl in the test's namespace."""
    return functools.partial(control_plane.kubectl, f"--namespace={namespace}")


@pytest_asyncio.fixture
async def api(control_plane: AnyCluster) -> "AsyncIterator[KubernetesApi]":
    """A connection to the API server, as administrator."""
    from .api import connected  # takes a while to import, and few tests need it

    async with connected(control_plane.kubeconfig) as api:
        yield api


@pytest.fixture
def audit(control_plane: AnyCluster) -> audit_log.Audit:
    """What the API server is asked for from now on."""
    return audit_log.Audit.from_now(control_plane.audit_log)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not os.environ.get("CI"):
        leave_out(config, items, _why_not)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if reason := _why_not(item):
        pytest.fail(reason, pytrace=False)


def _why_not(item: pytest.Item) -> str:
    """Why a test cannot be run; empty if it can."""
    fixtures = getattr(item, "fixturenames", ())
    if given_cluster() is None:
        return _why_no_control_plane() if "control_plane" in fixtures else ""
    if "audit" in fixtures or item.get_closest_marker("own_cluster"):
        return f"they need the test bed's own cluster, and {KUBECONFIG_VARIABLE} names another"
    return ""


@functools.cache
def _why_no_control_plane() -> str:
    reason = why_none(nodes=False)
    return f"there is no control plane; {reason}" if reason else ""
