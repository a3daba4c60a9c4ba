"""The `dp-vllm` command. It only finds the program that is asked for; what each one does is told by its own module.

The programs read their command lines themselves: `serve` and `sim` as vLLM reads its own, which click cannot.
"""

import os
import sys
from typing import Any, NoReturn

import click
from click.shell_completion import CompletionItem, get_completion_class

from dp_vllm import __version__, completion
from dp_vllm.completion import Completes
from dp_vllm.errors import DpVllmError


class _Verbatim(click.Command):
    """A command that gets its words as they were typed, `--help` among them."""

    def __init__(self, *args: Any, completes: Completes, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._completes = completes

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        return self._completes(ctx.params["words"], incomplete)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.params["words"] = tuple(args)
        return []


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="dp-vllm %(version)s")
def commands() -> None:
    """One LLM served by many vLLM replicas behind one OpenAI endpoint."""


@commands.command(
    cls=_Verbatim, completes=completion.of_serve, short_help="Serve MODEL with one engine a replica on this machine."
)
def serve(words: tuple[str, ...]) -> int:
    from dp_vllm.local import command_line, show
    from dp_vllm.local.slurm.spread import Spread

    request = command_line.understand(words, os.environ)
    if request is None:
        show.print_help()
        return 0
    if isinstance(request.what, Spread) and not request.dry_run:
        from dp_vllm.local.slurm.nodes import serve as run_on_nodes

        return run_on_nodes(request.what)
    for warning in request.deployment.warnings:
        click.echo(f"dp-vllm: warning: {warning}", err=True)
    if request.dry_run:
        (show.print_json if request.json else show.print_deployment)(request.deployment)
        return 0
    from dp_vllm.local.serve import serve as run

    return run(request.deployment)


@commands.command(
    cls=_Verbatim,
    completes=completion.of_serve,
    short_help="Whether serving MODEL will work here, and what is wrong if it did not.",
)
def doctor(words: tuple[str, ...]) -> int:
    from dp_vllm.doctor.command import main as command

    return command(words)


@commands.command(
    cls=_Verbatim,
    completes=completion.of_click("dp_vllm.topology.command", "topo"),
    short_help="Which GPUs belong together, by the links between them.",
)
def topo(words: tuple[str, ...]) -> int:
    from dp_vllm.topology.command import topo as command

    return int(command.main(words, prog_name="dp-vllm topo", standalone_mode=False) or 0)


@commands.command(
    cls=_Verbatim,
    completes=completion.of_click("dp_vllm_gateway.__main__", "main"),
    short_help="The gateway alone, before engines that somebody else started.",
)
def gateway(words: tuple[str, ...]) -> NoReturn:
    _become("dp_vllm_gateway", words)


@commands.command(
    cls=_Verbatim,
    completes=completion.of_click("dp_vllm_operator.__main__", "main"),
    short_help="Make a Kubernetes cluster match its DPModel objects.",
)
def operator(words: tuple[str, ...]) -> NoReturn:
    _become("dp_vllm_operator", words)


@commands.command(
    cls=_Verbatim, completes=completion.of_sim, short_help="One simulated engine, with vllm serve's flags and routes."
)
def sim(words: tuple[str, ...]) -> NoReturn:
    _become("dp_vllm.sim", words)


@commands.command(
    cls=_Verbatim,
    completes=completion.of_batch,
    short_help="Ask an endpoint everything in a file, and go on where it was killed.",
)
def batch(words: tuple[str, ...]) -> int:
    from dp_vllm.batch.command import main as command

    return int(command.main(list(words), "dp-vllm batch", standalone_mode=False) or 0)


@commands.command(
    cls=_Verbatim,
    completes=completion.of_click("dp_vllm.replay.command", "main"),
    short_help="Compare routing policies on a trace of requests, off line.",
)
def replay(words: tuple[str, ...]) -> int:
    from dp_vllm.replay.command import main as compare

    return int(compare.main(list(words), "dp-vllm replay", standalone_mode=False) or 0)


@commands.command(
    cls=_Verbatim,
    completes=completion.of_click("dp_vllm.local.explain", "main"),
    short_help="Why the last requests went to the replicas that they went to.",
)
def explain(words: tuple[str, ...]) -> int:
    from dp_vllm.local.explain import main as command

    return int(command.main(list(words), "dp-vllm explain", standalone_mode=False) or 0)


@commands.command(
    cls=_Verbatim,
    completes=completion.of_click("dp_vllm.local.operate.status", "main"),
    short_help="How your runs stand: replicas, GPUs, load, what went wrong.",
)
def status(words: tuple[str, ...]) -> int:
    from dp_vllm.local.operate.status import main as command

    return int(command.main(list(words), "dp-vllm status", standalone_mode=False) or 0)


@commands.command(
    cls=_Verbatim,
    completes=completion.of_click("dp_vllm.local.operate.show_logs", "main"),
    short_help="The last lines of a run's logs, and what comes with -f.",
)
def logs(words: tuple[str, ...]) -> int:
    from dp_vllm.local.operate.show_logs import main as command

    return int(command.main(list(words), "dp-vllm logs", standalone_mode=False) or 0)


@commands.command(
    cls=_Verbatim,
    completes=completion.of_click("dp_vllm.local.operate.change", "drain"),
    short_help="End replicas of a run without failing a request.",
)
def drain(words: tuple[str, ...]) -> int:
    from dp_vllm.local.operate.change import drain as command

    return int(command.main(list(words), "dp-vllm drain", standalone_mode=False) or 0)


@commands.command(
    cls=_Verbatim,
    completes=completion.of_click("dp_vllm.local.operate.change", "restart"),
    short_help="Restart replicas of a run, all of them with --rolling.",
)
def restart(words: tuple[str, ...]) -> int:
    from dp_vllm.local.operate.change import restart as command

    return int(command.main(list(words), "dp-vllm restart", standalone_mode=False) or 0)


@commands.command(
    cls=_Verbatim,
    completes=completion.of_click("dp_vllm.local.operate.change", "scale"),
    short_help="Have more replicas in a run, or fewer, while it serves.",
)
def scale(words: tuple[str, ...]) -> int:
    from dp_vllm.local.operate.change import scale as command

    return int(command.main(list(words), "dp-vllm scale", standalone_mode=False) or 0)


@commands.command(
    cls=_Verbatim,
    completes=completion.of_serve,
    short_help="Print the DPModel that a command line of serve stands for.",
)
def export(words: tuple[str, ...]) -> int:
    from dp_vllm.local import export_command

    return export_command.main(words)


@commands.command(name="completion", short_help="Print what makes your shell complete these commands.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion_script(shell: str) -> int:
    """Print what makes your shell complete the flags and values of these commands.

    bash: eval "$(dp-vllm completion bash)" in ~/.bashrc; zsh: the same with zsh in ~/.zshrc, after compinit;
    fish: dp-vllm completion fish > ~/.config/fish/completions/dp-vllm.fish
    """
    made = get_completion_class(shell)
    assert made is not None
    click.echo(made(commands, {}, "dp-vllm", "_DP_VLLM_COMPLETE").source())
    return 0


@commands.command(short_help="Print the custom resource definition of DPModel.")
def crd() -> int:
    from dp_vllm import crd as definition

    click.echo(definition.as_yaml(), nl=False)
    return 0


def _become(module: str, words: tuple[str, ...]) -> NoReturn:
    """Turn this process into `python -m module`, so that signals and the exit status are that program's."""
    os.execv(sys.executable, [sys.executable, "-I", "-m", module, *words])  # noqa: S606 - no shell is wanted


def _sentence(error: click.ClickException) -> str:
    """What click found wrong, as we say it."""
    said = error.format_message().rstrip(".")
    where = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "dp-vllm"
    return f"{said[0].lower()}{said[1:]} (`{where} --help` shows what there is)"


def main() -> int:
    """Run the command of `sys.argv` and return its exit status. An error that a person can mend is one line."""
    try:
        return int(commands.main(prog_name="dp-vllm", standalone_mode=False) or 0)
    except DpVllmError as error:
        click.echo(f"dp-vllm: {error}", err=True)
        return error.exit_status
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.ClickException as error:
        click.echo(f"dp-vllm: {_sentence(error)}", err=True)
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return 130
