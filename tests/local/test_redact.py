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
        (["--admin-api-key", "abc", "d"], "--admin-api-key *** ***"),
        (["--hf-token", "hub-secret-1", "--seed", "1"], "--hf-token *** --seed 1"),
        (["--api_key", "a b"], "--api_key ***"),
        (["--tokenizer", "/m", "--max-num-batched-tokens", "8192"], "--tokenizer /m --max-num-batched-tokens 8192"),
        (["--override", '{"token": "hub-secret-1"}'], '--override {"token": "***"}'),
        (["--hf-tok", "abc", "--seed", "1"], "--hf-tok *** --seed 1"),
        (["--hf_token=abc"], "--hf_token=***"),
        (["--ssl-keyfile-password", "pw", "--ssl-keyfile", "/key"], "--ssl-keyfile-password *** --ssl-keyfile /key"),
        (
            ["--speculative-config", '{"model": "d", "apiKey": "x"}'],
            '--speculative-config {"model": "d", "apiKey": "***"}',
        ),
        (['--speculative-config={"a": [{"hf_token": "x"}]}'], '--speculative-config={"a": [{"hf_token": "***"}]}'),
        (["--speculative-config.token", "x", "--port", "80"], "--speculative-config.token *** --port 80"),
        (
            ["--model-loader-extra-config", '{"s3_secret_access_key": 123456}'],
            '--model-loader-extra-config {"s3_secret_access_key": "***"}',
        ),
        (["--hf-overrides", '{"eos_token": "</s>"}'], '--hf-overrides {"eos_token": "</s>"}'),
        (
            ["--redis", "redis://:p@ss@host:1/0", "https://x/y?a=b&sig=abc"],
            "--redis redis://***@host:1/0 https://x/y?a=b&sig=***",
        ),
        (
            ["--served-model-name", "{not json", "--api-key-file", "/k"],
            "--served-model-name {not json --api-key-file /k",
        ),
    ],
)
def test_a_command_line_is_shown_without_secrets(argv: list[str], expected: str) -> None:
    assert " ".join(Redactor(argv, ENVIRONMENT).words(argv)) == expected


def test_variables_are_shown_without_secrets() -> None:
    shown = Redactor((), ENVIRONMENT).environment(ENVIRONMENT | {"URL": "https://u:pw@host/"})
    hidden = ("HF_TOKEN", "VLLM_API_KEY", "AWS_SECRET_ACCESS_KEY", "MY_KEY")
    assert Redactor((), {}).environment({"KV": '{"password": "x"}', "PGPASSWORD": "x"}) == {
        "KV": '{"password": "***"}',
        "PGPASSWORD": "***",
    }
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
