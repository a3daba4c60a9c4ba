"""Says at the end of a run which tests this run left out, and why or how to run them."""

import re
from collections.abc import Callable
from typing import Any

import pytest

_LEFT_OUT = pytest.StashKey[dict[str, int]]()


def leave_out(config: pytest.Config, items: list[pytest.Item], why: Callable[[pytest.Item], str]) -> None:
    """Deselect the tests for which `why` has an answer."""
    reasons = {item: reason for item in items if (reason := why(item))}
    items[:] = [item for item in items if item not in reasons]
    config.hook.pytest_deselected(items=list(reasons))
    counts = config.stash[_LEFT_OUT]
    for reason in reasons.values():
        line = f"because {reason}"
        counts[line] = counts.get(line, 0) + 1


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_LEFT_OUT] = {}


@pytest.hookimpl(trylast=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    items = reporter.stats.get("deselected", []) if reporter is not None else []
    left_out = session.config.stash[_LEFT_OUT]
    unwanted = set(re.findall(r"not (\w+)", session.config.option.markexpr))
    wanted = set(re.findall(r"\w+", session.config.option.markexpr)) - unwanted - {"and", "or", "not"}
    for marks in ({mark.name for mark in item.iter_markers()} for item in items):
        if wanted <= marks and (line := _first(session.config, marks & unwanted)):
            left_out[f"marked {line}"] = left_out.get(f"marked {line}", 0) + 1


def _first(config: pytest.Config, marks: set[str]) -> str:
    """The first line about one of these marks: a test is counted once."""
    return next((line for line in config.getini("markers") if line.partition(":")[0] in marks), "")


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):  # one of several processes (pytest-xdist): all collect the same
        session.config.workeroutput["left_out"] = session.config.stash[_LEFT_OUT]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    node.config.stash[_LEFT_OUT].update(getattr(node, "workeroutput", {}).get("left_out", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for line, count in config.stash[_LEFT_OUT].items():
        terminalreporter.write_line(f"not run: {count} tests {line}")
