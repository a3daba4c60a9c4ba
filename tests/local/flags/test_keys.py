"""Where the keys of the endpoint come from, and where they never go."""

from pathlib import Path

import pytest
from local.flags.asked import asked, refused

from dp_vllm import api_keys
from dp_vllm.errors import BadSettings


def test_a_key_never_stands_in_an_error() -> None:
    assert "hunter 2" not in refused("m", "--api-key", "hunter 2")
    assert "hunter2" not in refused("--api-key", "hunter2", "m")


@pytest.mark.parametrize(
    ("environ", "keys"),
    [
        ({"VLLM_API_KEY": "a"}, ("a",)),
        ({"DP_VLLM_API_KEY": "a b", "VLLM_API_KEY": "c"}, ("a", "b")),
        ({}, ()),
    ],
)
def test_keys_come_from_the_environment_too(environ: dict[str, str], keys: tuple[str, ...]) -> None:
    assert asked("m", environ=environ).settings.api_key == keys


@pytest.mark.parametrize("variable", ["DP_VLLM_API_KEY", "VLLM_API_KEY", "DP_VLLM_ADMIN_API_KEY"])
@pytest.mark.parametrize("value", ["", " \n", "schl\u00fcssel"])
def test_a_variable_that_holds_no_key_opens_nothing(variable: str, value: str) -> None:
    with pytest.raises(BadSettings) as error:
        asked("m", environ={variable: value})

    assert str(error.value) == f"{variable}: {api_keys.RULE}; unset the variable for none"


@pytest.mark.parametrize("flag", ["--api-key", "--admin-api-key"])
@pytest.mark.parametrize("value", ["", " ", "two words", "schl\u00fcssel", "tab\t", "x" * 4097])
def test_a_word_that_no_header_can_carry_is_no_key(flag: str, value: str) -> None:
    assert refused("m", flag, value) == f"{flag}: {api_keys.RULE}"


@pytest.mark.parametrize("value", ["", "''", "[]", "['']", "false", "two words"])
def test_a_line_of_the_config_file_that_holds_no_key_opens_nothing(tmp_path: Path, value: str) -> None:
    (tmp_path / "serve.yaml").write_text(f"api-key: {value}\n")

    said = refused("m", "--config", str(tmp_path / "serve.yaml"))
    assert said.startswith(f"api-key in {tmp_path}/serve.yaml: {api_keys.RULE}")


def test_administrators_keys_may_be_given_beside_a_file() -> None:
    typed = asked("m", "--admin-api-key", "a", "--api-key-file", "f", environ={"DP_VLLM_ADMIN_API_KEY": "b"}).settings
    assert (typed.admin_api_key, typed.api_key_file, typed.api_key) == (("a",), Path("f"), ())
    assert asked("m", environ={"DP_VLLM_ADMIN_API_KEY": "b c"}).settings.admin_api_key == ("b", "c")


def test_typed_keys_win_over_the_environment() -> None:
    environ = {"VLLM_API_KEY": "c"}

    assert asked("m", "--api-key", "a", environ=environ).settings.api_key == ("a",)
    assert asked("m", "--api-key-file", "f", environ=environ).settings.api_key == ()
