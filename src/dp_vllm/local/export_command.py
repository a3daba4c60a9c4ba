"""`dp-vllm export MODEL [flags of serve]`: prints the DPModel of such a command line."""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import click
import yaml

from dp_vllm.errors import BadSettings
from dp_vllm.local import command_line
from dp_vllm.local.export import Exported, export
from dp_vllm.local.flags import split

_HELP: Final = """\
usage: dp-vllm export MODEL [FLAG of dp-vllm serve ...]

Prints the DPModel object that stands for such a command line, for `kubectl apply -f` and `dp-vllm serve -f`. What a
cluster has no use for, and each path of this machine, is told in comments. Keys are not printed."""


def main(words: Sequence[str], environ: Mapping[str, str] = os.environ) -> int:
    """The exit status."""
    items = split.FLAGS.read(words)
    if split.wants_help(items):
        click.echo(_HELP)
        return 0
    asked = command_line.divided(items, environ)
    if asked.settings.file:
        raise BadSettings("--file: it holds DPModel objects already; give MODEL and its flags")
    here = Path(asked.model).expanduser()
    if here.is_dir():
        asked = replace(asked, model=str(here.absolute()))
    sys.stdout.write(text(export(asked, items, exists=lambda path: Path(path).exists())))
    return 0


def text(exported: Exported) -> str:
    """The object as YAML, below the remarks as comments."""
    lines = ["For `kubectl apply -f` and `dp-vllm serve -f`, from a command line of `dp-vllm serve`."]
    if exported.remarks:
        lines += ["", "Left out, or to be looked at:", *(f"- {remark}" for remark in exported.remarks)]
    comments = (f"# {line}".rstrip() for told in lines for line in (told.splitlines() or [""]))
    return "\n".join((*comments, yaml.safe_dump(dict(exported.body), sort_keys=False, allow_unicode=True, width=100)))
