"""`dp-vllm doctor [MODEL] [flags of serve]`: reads the command line, prints what was found."""

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import click
import msgspec
from rich.console import Console
from rich.text import Text

from dp_vllm.doctor.examine import examine
from dp_vllm.doctor.finding import Finding, Level
from dp_vllm.local import command_line, model_files
from dp_vllm.local.flags import split

_COLOURS: Final = {Level.OK: "green", Level.UNKNOWN: "cyan", Level.WARNING: "yellow", Level.PROBLEM: "bold red"}
_SUBJECT: Final = 14
_HELP: Final = """\
usage: dp-vllm doctor [MODEL] [FLAG of dp-vllm serve ...] [--json]
       dp-vllm doctor -f FILE.yaml [FLAG of dp-vllm serve ...] [--json]

Looks whether `dp-vllm serve MODEL FLAG ...` will work on this machine, and says what to do where it will not: vLLM and
the driver, the GPUs, their memory and who holds it, links, shared memory, limits, the port, the disk, access to the
model, whether the model can be cut and fits as asked. It starts nothing. Without MODEL it looks at the machine alone.

Exit status: 0, or 1 if there is a problem. `ok`, `unknown` and `warning` are none."""


def main(words: Sequence[str], environ: Mapping[str, str] = os.environ) -> int:
    """The exit status."""
    items = split.FLAGS.read(words)
    if split.wants_help(items):
        click.echo(_HELP)
        return 0
    asked = command_line.divided(items, environ, needs_model=False)
    command_line.demand_usable(asked.settings)
    held = model_files.read(asked.settings.file) if asked.settings.file else None
    findings = examine(asked, held, environ)
    return _as_json(findings) if asked.settings.json else _as_lines(findings)


def _as_json(findings: Iterable[Finding]) -> int:
    found = list(findings)
    sys.stdout.write(msgspec.json.format(msgspec.json.encode({"findings": found})).decode() + "\n")
    return _status(found)


def _as_lines(findings: Iterable[Finding]) -> int:
    console = Console(highlight=False)
    found = []
    for one in findings:
        found.append(one)
        level = Text(f"{one.level:<8}", _COLOURS[one.level])
        console.print(Text.assemble(level, f" {one.subject:<{_SUBJECT}} ", one.found), soft_wrap=True)
        if one.advice:
            console.print(Text(f"{'':{_SUBJECT + 9}} {one.advice}", "dim"), soft_wrap=True)
    console.print(Text(_summary(found), "bold"), soft_wrap=True)
    return _status(found)


def _summary(found: Sequence[Finding]) -> str:
    problems = sum(one.level is Level.PROBLEM for one in found)
    warnings = sum(one.level is Level.WARNING for one in found)
    if not problems:
        return "No problem was found." if not warnings else f"No problem was found; {_counted(warnings, 'warning')}."
    return f"{_counted(problems, 'problem')}, {_counted(warnings, 'warning')}."


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _status(found: Iterable[Finding]) -> int:
    return int(any(one.level is Level.PROBLEM for one in found))
