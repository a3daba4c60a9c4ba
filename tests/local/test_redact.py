"""Keys and tokens never get into what is kept of an engine."""

import pytest

from dp_vllm.local.redact import Redactor

ENVIRONMENT = {
    "HF_TOKEN": "hub-secret-1",
    "VLLM_API_KEY": "endpoint-secret",
    "AWS_SECRET_ACCESS_KEY": "aws-secret-1",
    "TOKENIZERS_PARALLELISM": "false",
    "MY_KEY": "k",
}


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["vllm", "serve", "m", "--api-key", "abc", "x"], "vllm serve m --api-key *** ***"),
        (["--api-key=abc", "--port", "80"], "--api-key=*** --port 80"),
        (["--hf-token", "hub-secret-1", "--seed", "1"], "--hf-token *** --seed 1"),
        (["--api_key", "a b"], "--api_key ***"),
        (["--tokenizer", "/m", "--max-num-batched-tokens", "8192"], "--tokenizer /m --max-num-batched-tokens 8192"),
        (["--override", '{"token": "hub-secret-1"}'], '--override {"token": "***"}'),
    ],
)
def test_a_command_line_is_shown_without_secrets(argv: list[str], expected: str) -> None:
    assert " ".join(Redactor(argv, ENVIRONMENT).words(argv)) == expected


def test_variables_are_shown_without_secrets() -> None:
    shown = Redactor((), ENVIRONMENT).environment(ENVIRONMENT | {"URL": "https://u:pw@host/"})
    hidden = ("HF_TOKEN", "VLLM_API_KEY", "AWS_SECRET_ACCESS_KEY", "MY_KEY")
    assert shown == {**dict.fromkeys(hidden, "***"), "TOKENIZERS_PARALLELISM": "false", "URL": "https://***@host/"}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("non-default args: {'hf_token': 'hub-secret-1'}", "non-default args: {'hf_token': '***'}"),
        ("a key given as a word: flag-secret", "a key given as a word: ***"),
        ("Authorization: Bearer abc.def-123", "Authorization: Bearer ***"),
        ("hf_abcdefghijklmnopqrstuvwxyz0123", "***"),
        ("no UTF-8: \udcff", "no UTF-8: ?"),
        ("k and false are too short, or no secrets", "k and false are too short, or no secrets"),
    ],
)
def test_a_log_is_kept_without_secrets(line: str, expected: str) -> None:
    assert Redactor(["--api-key", "flag-secret"], ENVIRONMENT).text(line) == expected
