"""What `dp-vllm serve --help` and `--dry-run` print."""

import shlex
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dp_vllm.engine.command import Command
from dp_vllm.engine.flags import flags_version
from dp_vllm.engine.version import SUPPORTED
from dp_vllm.local import words
from dp_vllm.local.deployment import Deployment
from dp_vllm.local.flags import settings
from dp_vllm.local.flags.settings import Setting
from dp_vllm.local.flags.split import EXAMPLE
from dp_vllm.local.redact import Redactor

_OFTEN_USED: Final = (
    ("", "--max-model-len LENGTH", "longest prompt with its answer, in tokens: 32768, 32K, auto (the model's)"),
    ("", "--gpu-memory-utilization F", "part of each GPU's memory that the engine may take (0.92)"),
    ("", "--dtype TYPE", "auto, bfloat16, float16, float32 (auto)"),
    ("-q", "--quantization METHOD", "awq, gptq, fp8, ... (the model's)"),
    ("", "--kv-cache-dtype TYPE", "fp8 halves what a token takes (auto)"),
    ("", "--max-num-seqs N", "sequences that one engine works on at a time"),
    ("", "--max-num-batched-tokens N", "tokens that one step of the engine takes"),
    ("", "--served-model-name NAME...", "what clients call the model (MODEL)"),
    ("", "--chat-template PATH", "how messages become a prompt (the model's)"),
    ("", "--tool-call-parser NAME", "how tool calls are read, with --enable-auto-tool-choice"),
    ("", "--reasoning-parser NAME", "how the model's thinking is set apart"),
    ("", "--enable-lora, --lora-modules", "adapters"),
    ("", "--runner pooling", "embeddings, scores, classes (auto)"),
    ("", "--trust-remote-code", "run code that comes with the model"),
    ("", "--config FILE.yaml", "flags as YAML, the endpoint's too; typed ones win"),
)


LATER: Final = (
    "once a replica was ready, with HF_HUB_OFFLINE=1 and --revision of what it serves, if by then the hub has another "
    "or does not answer"
)
"""How a replica is started again where all is known that it fetches."""


def print_help() -> None:
    """The one table of what is ours and what is the engine's."""
    console = Console()
    console.width = min(console.width, 120)
    console.print(
        Text("usage: dp-vllm serve MODEL [FLAG ...]\n       dp-vllm serve -f FILE.yaml [FLAG ...]\n", style="bold")
    )
    console.print(Text("One model, -dp copies of it, each an engine on its own GPUs, behind one OpenAI endpoint."))
    console.print(Text(f"For example: {EXAMPLE} -tp 2 --max-model-len 32K --api-key secret\n"))
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="green", no_wrap=True)
    table.add_column(style="green", no_wrap=True)
    table.add_column()
    _section(table, "Replicas", settings.REPLICAS)
    _section(table, "Endpoint", settings.ENDPOINT)
    _section(table, "Run", settings.RUN)
    table.add_row(
        Text("Engine", style="bold"), "", Text("every other flag goes to each engine exactly as typed", "bold")
    )
    for row in _OFTEN_USED:
        table.add_row(*map(Text, row))
    console.print(table)
    console.print(
        Text(
            f"\nIn brackets: the default. Works with vLLM {SUPPORTED}; flags are told apart as {flags_version()} does, "
            "and `vllm serve --help=all` lists its own."
        )
    )


def _section(table: Table, title: str, rows: tuple[Setting, ...]) -> None:
    table.add_row(Text(title, style="bold"))
    for row in rows:
        name = f"--no-{row.name[2:]}" if row.default == "yes" else row.name
        meaning = Text(row.meaning).append(f" ({row.default})" if row.value and row.default else "", style="dim")
        table.add_row(Text(" ".join(row.also)), Text(f"{name} {row.value}".rstrip()), meaning)
    table.add_row()


def print_deployment(deployment: Deployment) -> None:
    """Each replica's GPUs, environment and command, which can be copied to a shell but for its secrets."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for row in _rows(deployment):
        table.add_row(*map(Text, row))
    console = Console()
    if console.is_terminal:
        console.print(table)
        return
    console.width = 1_000_000  # for a program or a file a line stays a line
    with console.capture() as capture:
        console.print(table)
    sys.stdout.writelines(f"{line.rstrip()}\n" for line in capture.get().splitlines())


def _rows(deployment: Deployment) -> Iterator[tuple[str, str, str]]:
    yield "endpoint", "", f"{deployment.listen.url} for {deployment.model} ({deployment.engine})"
    for replica in deployment.replicas:
        yield f"replica {replica.name}", "GPUs", f"{','.join(replica.gpus) or 'none'}{words.joined(replica)}"
        yield "", "listens on", replica.address
        yield from _command_rows(replica.command)
        if replica.pinnable:
            yield "", "later", LATER
    yield "gateway", "sockets", "handed down open, with one --listen-fd for each"
    yield from _command_rows(deployment.gateway)
    yield "run", "name", deployment.name
    yield "", "directory", str(deployment.directory.path)
    yield "", "logs", str(deployment.directory.logs)
    for path in deployment.files:
        yield "", "writes", str(path)


def _command_rows(command: Command) -> Iterator[tuple[str, str, str]]:
    shown = redacted(command)
    if shown.variables:
        yield "", "environment", shlex.join(f"{name}={value}" for name, value in shown.variables.items())
    if shown.unset:
        yield "", "without", " ".join(shown.unset)
    if shown.inherits is not None:
        yield "", "inherits", " ".join(shown.inherits) or "nothing"
    yield "", "command", shlex.join(shown.argv)


def redacted(command: Command) -> Command:
    """The same without keys and tokens."""
    redactor = Redactor(command.argv, command.variables)
    return replace(command, argv=redactor.words(command.argv), variables=redactor.environment(command.variables))


def print_json(deployment: Deployment) -> None:
    """The same as JSON. Keys and tokens are not in it."""
    content = {
        "name": deployment.name,
        "model": deployment.model,
        "engine": deployment.engine,
        "endpoint": deployment.listen.url,
        "replicas": [
            {
                "name": one.name,
                "models": one.models,
                "gpus": one.gpus,
                "worst_link": one.worst_link,
                "address": one.address,
                "keeps_revision": bool(one.pinnable),
                **_command_json(one.command),
            }
            for one in deployment.replicas
        ],
        "gateway": _command_json(deployment.gateway),
        "directory": str(deployment.directory.path),
        "logs": str(deployment.directory.logs),
        "files": [str(path) for path in deployment.files],
        "warnings": deployment.warnings,
    }
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(content)).decode() + "\n")


def _command_json(command: Command) -> dict[str, Any]:
    shown = redacted(command)
    return {
        "command": shown.argv,
        "environment": shown.variables,
        "unset": shown.unset,
        "inherits": shown.inherits,
    }
