"""`dp-vllm export`: the object of a command line is run as the command line is, and says what it leaves out."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import random_specs
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from dp_vllm.engine.command import known_flags
from dp_vllm.errors import BadSettings
from dp_vllm.local import command_line, export_command, models
from dp_vllm.local.export import Exported, export
from dp_vllm.local.flags import split
from dp_vllm.local.models import Model
from dp_vllm.spec import documents
from dp_vllm.spec.references import escaped, expanded

SERVED = st.none() | st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=9).filter(
    lambda name: name[0] != "-"
)


def exported(*words: str, exists: Sequence[str] = ()) -> Exported:
    items = split.FLAGS.read(words)
    return export(command_line.divided(items, {}), items, exists=exists.__contains__)


def typed(*words: str) -> Model:
    return models.typed(command_line.divided(split.FLAGS.read(words), {}), None)


def written(of: Exported) -> Model:
    (model,) = models.written(documents.read(export_command.text(of), "f.yaml").models, {}, keys=True)
    return model


def meaning(words: Sequence[str]) -> tuple[list[object], object]:
    """What an engine takes the words for: its flags in their order, and what it is called."""
    items = known_flags().read(words)
    named = [item.values for item in items if item.flag and item.flag.name == "--served-model-name"]
    others = [(item.flag.name if item.flag else item.spelling, item.values, item.off) for item in items]
    return [one for one in others if one[0] != "--served-model-name"], named[-1:]


@given(random_specs.engine_args(), st.integers(1, 9), st.integers(1, 9), st.integers(1, 9), SERVED)
@example(["--chat-template", "$$(A) $(B)"], 1, 1, 1, None)
@example(["--seed", "-1", "--hf-overrides", "-a b"], 1, 1, 1, "$$")
@settings(max_examples=20)
def test_the_object_s_engine_is_that_of_the_command_line(
    args: list[str], dp: int, tp: int, pp: int, served: str | None
) -> None:
    words = ["org/model", f"-dp={dp}", *args, f"-tp={tp}", f"-pp={pp}"]
    words += [] if served is None else [f"--served-model-name={served}"]
    try:
        wanted = typed(*words)
    except BadSettings:  # a word that no command line may have
        assume(False)

    made = written(exported(*words))

    assert (made.model, made.copies, made.sizes) == (wanted.model, wanted.copies, wanted.sizes)
    assert meaning(made.words) == meaning(wanted.words)


@given(st.text("$()AB "))
def test_what_is_escaped_comes_out_as_it_was(text: str) -> None:
    assert expanded(escaped(text), {"A": "1", "B": "2"}) == text


def test_a_config_file_becomes_flags(tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text(
        "model: org/m\nport: 9000\nmax_model_len: 4096\nenable-prefix-caching: false\nenforce-eager: true\n"
        "disable-log-stats: false\nserved-model-name: [x]\nlora-modules: [a=b, c=d]\nspeculative-config: {a: 1}\n"
        "seed: -1\n"
    )

    made = exported("--config", str(file), "-dp", "2", "--seed", "2")

    assert made.body["spec"] == {
        "model": "org/m",
        "servedModelName": "x",
        "replicas": 2,
        "engine": {
            "args": [
                *("--max_model_len=4096", "--no-enable-prefix-caching", "--enforce-eager"),
                *("--lora-modules", "a=b", "c=d", '--speculative-config={"a": 1}', "--seed=-1", "--seed", "2"),
            ]
        },
    }


def test_what_a_cluster_cannot_take_is_told_and_no_secret_is(tmp_path: Path) -> None:
    words = [
        *(
            "org/m",
            "--api-key",
            "hunter2",
            "--admin-api-key",
            "hunter4",
            "--port",
            "9000",
            "--gpu-groups",
            "0",
            "-pcp",
            "2",
            "--hf-token",
            "hunter3",
        ),
        *(
            "--served-model-name",
            "a",
            "b",
            "--ssl-certfile",
            str(tmp_path),
            "--engine",
            "/venv/vllm",
            "--queue-seconds",
            "1",
        ),
        *(
            "--policy",
            "session",
            "--prefix-weight",
            "2",
            "--name",
            "Name_1",
            "--dry-run",
            "-dp",
            "1",
            "--metrics-port",
            "1",
            "--first-byte-seconds",
            "3600",
            '--allowed-origins=["https://a.example"]',
        ),
    ]

    made = exported(*words)

    assert made.body["metadata"] == {"name": "name-1"}
    assert made.body["spec"] == {
        "model": "org/m",
        "servedModelName": "a",
        "gateway": {
            "policy": "session",
            "prefixWeight": 2,
            "firstByteSeconds": 3600,
            "allowedOrigins": ["https://a.example"],
        },
    }
    assert sorted(remark.split(": ")[0] for remark in made.remarks) == [
        *("--admin-api-key", "--api-key", "--engine", "--gpu-groups", "--hf-token", "--metrics-port", "--port"),
        "--queue-seconds",
        *("--served-model-name", "--ssl-certfile", "-pcp"),
    ]
    assert "--hf-token: use spec.hfTokenSecretRef" in made.remarks
    assert "hunter" not in export_command.text(made)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["/models/m"], ["spec.model: /models/m is a path"]),
        (["org/m", "--chat-template", "./t.jinja"], ["--chat-template: ./t.jinja is a path"]),
        (["org/m", "--chat-template", "t.jinja"], ["--chat-template: t.jinja is a path"]),
        (["org/m", "--chat-template", "u.jinja"], []),
        (["org/m", "--lora-modules", "a=~/a", "b=org/b"], ["--lora-modules: a=~/a is a path"]),
        (["org/m", "--speculative-config", '{"model": "/d"}'], ['--speculative-config: {"model": "/d"} is a path']),
        (["org/m", "--dtype", "auto", "--gpu-memory-utilization", "0.9"], []),
    ],
)
def test_each_path_of_this_machine_is_warned_of(words: list[str], told: list[str]) -> None:
    remarks = exported(*words, exists=["t.jinja", "auto"]).remarks

    assert [remark.partition(" of this machine; ")[0] for remark in remarks] == told


def test_a_simulated_engine_is_one_in_a_cluster_too() -> None:
    engine = exported("org/m", "--engine", "sim").body["spec"]["engine"]

    assert engine["accelerator"] == "none" and engine["image"].startswith("dp-vllm/sim:")


def test_what_is_printed_can_be_served(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    argv = [str(Path(sys.executable).with_name("dp-vllm")), "export", "weights", "-dp", "2", "--seed", "7"]
    printed = subprocess.run(argv, capture_output=True, text=True, cwd=tmp_path, timeout=60, check=True).stdout
    (tmp_path / "m.yaml").write_text(printed)

    request = command_line.understand(["-f", str(tmp_path / "m.yaml"), "--engine", "sim"], {"HOME": str(tmp_path)})

    assert request is not None
    words = [replica.command.argv[4:7] for replica in request.deployment.replicas]
    assert words == [(str(tmp_path / "weights"), "--seed", "7")] * 2


@pytest.mark.parametrize(
    ("words", "said"), [([], "MODEL is missing, "), (["-f", "x.yaml"], "--file: it holds DPModel objects already; ")]
)
def test_what_is_no_model_is_refused(words: list[str], said: str) -> None:
    with pytest.raises(BadSettings, match=f"^{said}"):
        export_command.main(words, {})
