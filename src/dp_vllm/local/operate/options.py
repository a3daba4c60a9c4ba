"""Flags that several of these commands have."""

from collections.abc import Callable
from typing import Any

import click

_Command = Callable[..., Any]


def name_option(command: _Command) -> _Command:
    """The flag that all these commands have: `--name`, as `dp-vllm serve` has it."""
    text = "The run's name, by default its port. Without it: the only one."
    return click.option("--name", metavar="RUN", help=text)(command)
