"""What a shell offers while a command line is typed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete

from dp_vllm import cli

BIN = Path(sys.executable).parent


def offered(line: str) -> list[str]:
    """What is offered at the end of this line."""
    *words, begun = line.split(" ")
    shell = ShellComplete(cli.commands, {}, "dp-vllm", "_DP_VLLM_COMPLETE")
    return [item.value if item.type == "plain" else f"<{item.type}>" for item in shell.get_completions(words, begun)]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("gatew", ["gateway"]),
        ("gateway --pol", ["--policy"]),
        ("gateway --policy pre", ["prefix"]),
        ("gateway --endpoints-file ", ["<file>"]),
        ("serve m --pol", ["--policy"]),
        ("serve m --policy = pre", ["prefix"]),
        ("serve m --max_model", ["--max-model-len"]),
        ("serve m --engine ", ["vllm", "sim"]),
        ("serve m --scheduling-policy f", ["fcfs"]),
        ("serve m --chat-template ", ["<file>"]),
        ("serve m -dp", ["-dp"]),
        ("serve --config ", ["<file>"]),
        ("serve m --headl", []),
        ("doctor --device-i", ["--device-ids"]),
        ("export m --tensor", ["--tensor-parallel-size"]),
        ("sim m --sim-lo", ["--sim-load-seconds"]),
        ("sim m --sim-fault die-mid", ["die-mid-stream"]),
        ("operator --log-format ", ["text", "json"]),
        ("batch --retry-f", ["--retry-failed"]),
        ("batch in out -- m --policy pre", ["prefix"]),
        ("scale --mo", ["--model"]),
        ("logs --fo", ["--follow"]),
        ("completion z", ["zsh"]),
        ("topo --ne", []),
    ],
)
def test_flags_and_values_of_every_command_are_offered(line: str, expected: list[str]) -> None:
    assert offered(line) == expected


def test_every_command_offers_its_flags() -> None:
    for name in cli.commands.commands:
        assert offered(f"{name} -"), name


def test_bash_completes_with_the_line_that_the_help_names() -> None:
    script = """
eval "$(dp-vllm completion bash)"
for line in "gateway --pol" "serve m --policy = pre" "serve m --kv-cache-dtype-s"; do
    COMPREPLY=()
    COMP_WORDS=(dp-vllm $line)
    COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
    _dp_vllm_completion dp-vllm
    echo "${COMPREPLY[@]}"
done
"""
    environ = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
    told = subprocess.run(["bash", "-c", script], env=environ, capture_output=True, text=True, timeout=50, check=False)
    assert (told.stdout, told.stderr) == ("--policy\nprefix\n--kv-cache-dtype-skip-layers\n", "")


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_have_a_script_too(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.commands.main(["completion", shell], standalone_mode=False) == 0
    assert f"_DP_VLLM_COMPLETE={shell}_complete" in capsys.readouterr().out
