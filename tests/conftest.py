"""What all tests share."""

import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

pytest_plugins = ("left_out", "long_first", "cluster.fixtures", "kubelet.fixtures")

# How long an example takes says nothing here: other tests run beside it. All else is as Hypothesis has it, in CI too.
settings.register_profile(
    "shared",
    settings.get_profile(settings.get_current_profile_name()),
    deadline=None,
    max_examples=50,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("shared")

# A shell has what it starts in the background ignore Ctrl-C, and programs that tests start would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def short_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For the sockets of a run, whose paths may not be long: `tmp_path` has the name of the test in it."""
    return tmp_path_factory.mktemp("s")
