"""Says at the end of a run which tests this run left out by their marker, and how to run them."""

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    left_out = terminalreporter.stats.get("deselected", [])
    for line in config.getini("markers"):
        name = line.partition(":")[0]
        count = sum(item.get_closest_marker(name) is not None for item in left_out)
        if count and f"not {name}" in config.option.markexpr:
            terminalreporter.write_line(f"not run: {count} tests marked {line}")
