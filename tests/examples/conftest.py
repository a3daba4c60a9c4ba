"""What tests of the examples share."""

import programs
import pytest
from cluster.given import AnyCluster

from dp_vllm import crd, names


@pytest.fixture(scope="session")
def dpmodels(control_plane: AnyCluster) -> AnyCluster:
    """A control plane that serves DPModels. The definition stays: other processes of the test run use it too."""
    control_plane.kubectl("apply", "--server-side", "--force-conflicts", "--filename=-", stdin=crd.as_yaml())
    control_plane.kubectl("wait", "--for=condition=Established", f"crd/{crd.NAME}", "--timeout=30s")
    path = f"/apis/{names.API_GROUP}/{names.API_VERSION}/{names.PLURAL}"
    programs.wait_until(lambda: "items" in control_plane.kubectl("get", f"--raw={path}"), "DPModels are served")
    return control_plane
