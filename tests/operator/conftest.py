"""What tests of the operator share."""

import functools

import programs
import pytest
from cluster.given import AnyCluster

from dp_vllm import crd, names


@pytest.fixture(scope="session")
def dpmodels(control_plane: AnyCluster) -> AnyCluster:
    """A control plane that knows DPModels. The definition stays: other processes of the test run use it too."""
    control_plane.kubectl("apply", "--server-side", "--force-conflicts", "--filename=-", stdin=crd.as_yaml())
    control_plane.kubectl("wait", "--for=condition=Established", f"crd/{crd.NAME}", "--timeout=30s")
    listed = functools.partial(
        control_plane.kubectl, "api-resources", f"--api-group={names.API_GROUP}", "--cached=false"
    )
    programs.wait_until(lambda: names.PLURAL in listed(), "kubectl knows DPModels")
    return control_plane
