"""Says at the end of a run which tests this run left out by their marker, and how to run them."""

from typing import Any

import pytest

LEFT_OUT = pytest.StashKey[dict[str, int]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[LEFT_OUT] = {}


@pytest.hookimpl(trylast=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    items = reporter.stats.get("deselected", []) if reporter is not None else []
    left_out = session.config.stash[LEFT_OUT]
    for line in session.config.getini("markers"):
        count = sum(item.get_closest_marker(line.partition(":")[0]) is not None for item in items)
        if count and f"not {line.partition(':')[0]}" in session.config.option.markexpr:
            left_out[line] = count


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):  # one of several processes (pytest-xdist): all collect the same
        session.config.workeroutput["left_out"] = session.config.stash[LEFT_OUT]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    node.config.stash[LEFT_OUT].update(getattr(node, "workeroutput", {}).get("left_out", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for line, count in config.stash[LEFT_OUT].items():
        terminalreporter.write_line(f"not run: {count} tests marked {line}")
