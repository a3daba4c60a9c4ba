"""The command line: vLLM's flags and the simulator's own."""

import subprocess
from pathlib import Path

import programs
import pytest

from dp_vllm.errors import BadSettings
from dp_vllm.sim import faults, options, settings


def test_every_flag_of_vllm_is_taken() -> None:
    words = (
        "demo/model --dtype auto -tp 2 --gpu-memory-utilization=0.9 --enforce-eager --hf-overrides {} -O3 --some-new x"
    )
    given = options.parse([*words.split(), "--max-num-seqs", "7"], {})
    assert (given.model, given.limits.max_num_seqs) == ("demo/model", 7)


def test_flags_may_stand_before_the_model_and_be_abbreviated() -> None:
    given = options.parse(["--dtype", "auto", "--max_num_seqs=3", "--shutdown-time", "4", "demo/model"], {})
    assert (given.model, given.limits.max_num_seqs, given.shutdown_timeout_seconds) == ("demo/model", 3, 4.0)


def test_sizes_have_vllms_suffixes() -> None:
    given = options.parse(["m", "--max-model-len", "8K", "--max-num-batched-tokens", "2k"], {})
    assert (given.limits.max_model_len, given.limits.max_num_batched_tokens) == (8192, 2000)


def test_names_keys_and_switches_are_read() -> None:
    words = "m --served-model-name a b --api-key k l --no-enable-prefix-caching --enable-request-id-headers"
    given = options.parse(words.split(), {"VLLM_API_KEY": "other"})
    assert given.names == ("a", "b")
    assert given.api.keys == ("k", "l")
    assert not given.limits.prefix_caching
    assert given.api.request_id_headers


def test_a_config_file_stands_before_what_is_typed(tmp_path: Path) -> None:
    config = tmp_path / "serve.yaml"
    config.write_text(
        "model: from/file\nserved-model-name: [a, b]\nmax_num_seqs: 5\nenable-prefix-caching: false\n"
        "enable-request-id-headers: true\nhf-overrides: {x: 1}\nmax-model-len: null\nshutdown-timeout: 7\n"
    )
    given = options.parse(["--config", str(config), "--max-num-seqs", "6"], {})
    assert (given.model, given.names, given.limits.max_num_seqs) == ("from/file", ("a", "b"), 6)
    assert (given.limits.prefix_caching, given.api.request_id_headers) == (False, True)
    assert given.shutdown_timeout_seconds == 7.0
    assert options.parse(["typed", "--config", str(config)], {}).model == "typed"


@pytest.mark.parametrize("text", ["- a", "a: [", None], ids=["a list", "broken", "missing"])
def test_a_config_file_that_is_none_is_refused(tmp_path: Path, text: str | None) -> None:
    config = tmp_path / "serve.yaml"
    if text is not None:
        config.write_text(text)
    with pytest.raises(BadSettings, match=r"--config: .*serve\.yaml"):
        options.parse(["m", "--config", str(config)], {})


@pytest.mark.parametrize("setting", settings.SETTINGS, ids=lambda setting: setting.name)
def test_a_setting_can_come_from_its_flag_or_its_variable(setting: settings.Setting) -> None:
    value = setting.default * 2 + 4096
    variable = {setting.variable: str(value)}
    assert read([], variable)[setting.name] == value
    assert read([setting.flag, str(value + 1)], variable)[setting.name] == value + 1
    assert read([], {})[setting.name] == setting.default


def read(words: list[str], variables: dict[str, str]) -> dict[str, float]:
    """The settings as the engine is built with them."""
    given = options.parse(["m", *words], variables)
    return {
        "prefill-tokens-per-second": given.pace.prefill_tokens_per_second,
        "decode-step-seconds": given.pace.decode_step_seconds,
        "decode-growth-seconds": given.pace.decode_growth_seconds,
        "kv-blocks": given.limits.blocks,
        "load-seconds": given.load_seconds,
        "host-cores": given.host_cores,
        "reply-tokens": given.reply_tokens,
        "embedding-size": given.embedding_size,
    }


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("m --max-num-seqs many", "--max-num-seqs: 'many' is not a whole number"),
        ("m --sim-load-seconds soon", "--sim-load-seconds: 'soon' is not a number of s"),
        ("m --sim-kv-blocks 0", "--sim-kv-blocks: '0' is not a number of blocks from 1 up"),
        ("m --sim-nonsense 1", "--sim-nonsense: no such setting"),
        ("m --sim-kv-blocks 10", "raise --sim-kv-blocks or lower --max-model-len"),
        ("m --sim-fault nonsense", "fault kind 'nonsense' is not known"),
        ("m --lora-modules nonsense", "--lora-modules: 'nonsense' is not NAME=PATH"),
        ("m --sim-host /no/such/place", "--sim-host: '/no/such/place' is not a directory"),
        ("m --port", "--port: expected one value"),
        ("m n", "unrecognized arguments: n"),
    ],
)
def test_a_bad_value_is_named(words: str, named: str) -> None:
    with pytest.raises(BadSettings, match=named.replace("--", r"--")) as caught:
        options.parse(words.split(), {})
    assert caught.value.exit_status == 2


@pytest.mark.parametrize("word", ["--model demo/m", "-dp 2"])
def test_a_flag_and_its_value_in_one_word_are_no_model(word: str) -> None:
    with pytest.raises(BadSettings, match="is one word; check the quotes"):
        options.parse([word], {})


def test_help_names_every_setting_and_every_fault() -> None:
    said = subprocess.run(programs.python("-m", "dp_vllm.sim", "--help"), capture_output=True, text=True, check=True)
    for setting in settings.SETTINGS:
        assert setting.flag in said.stdout and setting.variable in said.stdout
    for kind in faults.KINDS:
        assert f"    {kind} " in said.stdout
