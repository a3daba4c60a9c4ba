"""Where the keys of the endpoint come from, and where they never go."""

import pytest
from local.flags.asked import asked, refused


def test_a_key_never_stands_in_an_error() -> None:
    assert "hunter 2" not in refused("m", "--api-key", "hunter 2")
    assert "hunter2" not in refused("--api-key", "hunter2", "m")


@pytest.mark.parametrize(
    ("environ", "keys"),
    [
        ({"VLLM_API_KEY": "a"}, ("a",)),
        ({"DP_VLLM_API_KEY": "a b", "VLLM_API_KEY": "c"}, ("a", "b")),
        ({"DP_VLLM_API_KEY": "", "VLLM_API_KEY": "c"}, ("c",)),
        ({}, ()),
    ],
)
def test_keys_come_from_the_environment_too(environ: dict[str, str], keys: tuple[str, ...]) -> None:
    assert asked("m", environ=environ).settings.api_key == keys


def test_typed_keys_win_over_the_environment() -> None:
    environ = {"VLLM_API_KEY": "c"}

    assert asked("m", "--api-key", "a", environ=environ).settings.api_key == ("a",)
    assert asked("m", "--api-key-file", "f", environ=environ).settings.api_key == ()
