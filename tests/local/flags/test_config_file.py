"""Flags from the file that --config names, which holds the endpoint's and the engine's together."""

from pathlib import Path

import pytest
import yaml
from local.flags.asked import asked, refused

from dp_vllm.local.flags.settings import Settings


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_its_flags_are_divided_like_typed_ones(tmp_path: Path) -> None:
    path = write(
        tmp_path / "serve.yaml",
        """
        model: m
        data_parallel_size: 2
        api-key: [a, b]
        port: 9000
        access-log: false
        headless: false
        host: null
        allowed-origins: '["*"]'
        max-model-len: 8192
        enable-prefix-caching: false
        compilation-config: {pass_config: {fuse: true}}
        """,
    )

    got = asked("--config", path, "--seed", "1")

    assert got.model == "m"
    assert got.settings.data_parallel_size == 2
    assert got.settings.api_key == ("a", "b")
    assert got.settings.port == 9000
    assert got.settings.host is None
    assert set(got.settings.gateway_words) == {"--no-access-log", "--allowed-origins", '["*"]'}
    assert got.engine_words == ("--seed", "1")
    assert got.engine_flags == {"--seed", "--max-model-len", "--enable-prefix-caching", "--compilation-config"}
    assert got.config_text is not None
    assert yaml.safe_load(got.config_text) == {
        "max-model-len": 8192,
        "enable-prefix-caching": False,
        "compilation-config": {"pass_config": {"fuse": True}},
    }


@pytest.mark.parametrize("form", ["--config {}", "--config={}"])
def test_typed_flags_win_over_it(tmp_path: Path, form: str) -> None:
    path = write(tmp_path / "serve.yml", "model: m\nport: 9000\ntensor-parallel-size: 2\n")

    got = asked("n", *form.format(path).split(), "-tp", "4")

    assert (got.model, got.settings.port, got.settings.tensor_parallel_size) == ("n", 9000, 4)


def test_without_flags_of_ours_the_engine_reads_the_file_itself(tmp_path: Path) -> None:
    path = write(tmp_path / "serve.yaml", "max-model-len: 8192\n")

    got = asked("m", "--config", path)

    assert got.config is not None and str(got.config.path) == path
    assert got.config_text is None


def test_an_empty_one_says_nothing(tmp_path: Path) -> None:
    assert asked("m", "--config", write(tmp_path / "serve.yaml", "")).settings == Settings()


def test_experts_are_found_in_it(tmp_path: Path) -> None:
    path = write(tmp_path / "serve.yaml", "enable-expert-parallel: true\n")

    assert refused("m", "-dp", "2", "--config", path).startswith("--data-parallel-size: 2 with --enable-expert")


def test_a_flag_that_is_nearly_ours_may_stand_in_it(tmp_path: Path) -> None:
    path = write(tmp_path / "serve.yaml", "replica-prots: 3\n")

    assert asked("m", "--config", path).config_text is None


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("port: x", "port in {}: 'x' is not allowed; allowed are ports from 1 to 65535"),
        ("port: [1, 2]", "port in {}: one value is needed, not 2"),
        ("port: true", "port in {} needs a value"),
        ("dp: 4", "dp in {}: no flag is called so; write data-parallel-size"),
        ("config: x.yaml", "config in {}: a --config file cannot name another one"),
        ("nnodes: 2", "nnodes in {} 2: dp-vllm serve runs replicas that fit into one machine"),
        ("- a", "--config: {} must map flags to values, like `max-model-len: 8192`"),
        ("a: [", "--config: {} is not YAML: while parsing"),
    ],
)
def test_what_cannot_be_names_the_file(tmp_path: Path, text: str, sentence: str) -> None:
    path = write(tmp_path / "serve.yaml", text)

    assert refused("m", "--config", path).startswith(sentence.format(path))


def test_it_must_be_there_and_be_yaml(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing.yaml")

    assert refused("m", "--config", missing) == f"--config: {missing} cannot be read: No such file or directory"
    assert refused("m", "--config", "a.json") == (
        "--config: 'a.json' is not a .yaml or .yml file, and vLLM takes no other"
    )
