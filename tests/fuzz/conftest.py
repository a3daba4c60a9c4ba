"""Divides the time for random cases among the tests that use it."""

import fuzzing
import pytest


@pytest.fixture
def seconds(request: pytest.FixtureRequest) -> float:
    """How long one test tries random cases."""
    return fuzzing.SECONDS / len(request.session.items)
