"""What the flags of a command line say: to the endpoint, to its gateway, to the engine."""

from pathlib import Path

import pytest
from local.flags.asked import asked

from dp_vllm.local.flags.settings import Settings


@pytest.mark.parametrize(
    ("words", "field", "value"),
    [
        (["-dp", "4"], "data_parallel_size", 4),
        (["-dp=4"], "data_parallel_size", 4),
        (["--data_parallel_size", "4"], "data_parallel_size", 4),
        (["-t", "2"], "tensor_parallel_size", 2),
        (["--tensor-par=2"], "tensor_parallel_size", 2),
        (["--port", "1", "--port", "2"], "port", 2),
        (["--api-key", "a", "b"], "api_key", ("a", "b")),
        (["--api-key", "a", "--api-key", "b"], "api_key", ("b",)),
        (["--api-key=-a"], "api_key", ("-a",)),
        (["--shutdown-timeout", "0.5"], "shutdown_timeout_seconds", 0.5),
        (["--uds", "/s"], "uds", Path("/s")),
        (["--device-ids", "2, 3"], "device_ids", ("2", "3")),
        (["--dry-r"], "dry_run", True),
        (["--replica-port", "9000"], "replica_ports", 9000),
    ],
)
def test_a_flag_of_ours_is_typed(words: list[str], field: str, value: object) -> None:
    assert getattr(asked("MODEL", *words).settings, field) == value


def test_without_flags_every_setting_has_its_default() -> None:
    assert asked("MODEL").settings == Settings()


@pytest.mark.parametrize(
    ("words", "gateway"),
    [
        (["--root-path", "/m"], ("--root-path", "/m")),
        (["--ssl-ciphers=-ALL"], ("--ssl-ciphers=-ALL",)),
        (["--no-access-log"], ("--no-access-log",)),
        (["--no-access-log", "--access-log"], ()),
        (["--allow-credentials"], ("--allow-credentials",)),
        (["--allow-credentials", "--no-allow-credentials"], ()),
        (["--policy", "least-load", "--policy", "round-robin"], ("--policy", "round-robin")),
        (["--shutdown_timeout=3"], ("--shutdown-timeout", "3")),
    ],
)
def test_the_gateway_is_told_what_is_its_own(words: list[str], gateway: tuple[str, ...]) -> None:
    assert asked("MODEL", *words).settings.gateway_words == gateway


@pytest.mark.parametrize(
    ("words", "model"),
    [
        (["m", "-tp", "2"], "m"),
        (["-tp", "2", "m"], "m"),
        (["--model", "m"], "m"),
        (["-dp", "2", "--model=m", "--seed", "1"], "m"),
        (["--enforce-eager", "m"], "m"),
        (["--hf-token=x", "m"], "m"),
        (["--", "m"], "m"),
    ],
)
def test_the_model_is_found(words: list[str], model: str) -> None:
    got = asked(*words)

    assert got.model == model
    assert "m" not in got.engine_words
    assert "--" not in got.engine_words


@pytest.mark.parametrize(
    "words",
    [
        ["--nnodes", "1"],
        ["-r0"],
        ["--api-server-count=1"],
        ["--no-data-parallel-hybrid-lb"],
        ["--no-enable-ssl-refresh"],
    ],
)
def test_a_flag_that_says_what_is_the_case_anyway_is_dropped(words: list[str]) -> None:
    assert asked("m", *words).engine_words == ()


def test_a_flag_that_is_nearly_vllms_is_passed_on_with_a_note() -> None:
    got = asked("m", "--max-model-length", "8K")

    assert got.engine_words == ("--max-model-length", "8K")
    (note,) = got.notes
    assert note.startswith("--max-model-length is not a flag of vLLM ")
    assert note.endswith(" (--max-model-len is); the engine gets it as you typed it")


def test_the_flags_that_the_engine_gets_are_known_by_name() -> None:
    assert asked("m", "--enable_server_load", "-q=awq").engine_flags == {
        "--enable-server-load-tracking",
        "--quantization",
    }
