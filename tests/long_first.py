"""Lets every process of a parallel test run begin with long tests: the last ones would else be waited for by all.

xdist gives each process an equal part of the tests as they were collected, one part after the other.
"""

import os

import pytest

LONG_SECONDS = 60
"""Tests that may take longer than this say so with a timeout of their own."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    long = [item for item in items if _is_long(item)]
    short = [item for item in items if not _is_long(item)]
    parts = [long[each::processes] for each in range(processes)]
    items[:] = []
    for each, part in enumerate(parts):
        room = (len(long) + len(short)) // processes - len(part)
        items += part
        items += short[:room] if each < processes - 1 else short
        del short[:room]


def _is_long(item: pytest.Item) -> bool:
    marker = item.get_closest_marker("timeout")
    return marker is not None and marker.args[0] > LONG_SECONDS
