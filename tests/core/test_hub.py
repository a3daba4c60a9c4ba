"""What an engine will fetch, as its model and its flags say."""

import json

import pytest

from dp_vllm.engine.hub import Fetched, Repository, fetched

MODEL = Repository("org/model")


@pytest.mark.parametrize("model", ["org/model", "gpt2", "Qwen/Qwen2.5-7B_x"])
def test_a_name_is_at_the_hub(model: str) -> None:
    assert fetched(model, ()) == Fetched((Repository(model),), whole=True)


@pytest.mark.parametrize("model", ["/cache/model", "s3://bucket/model", "org/model:Q4_K_M", "org/model/file.gguf"])
def test_a_path_or_a_url_is_not(model: str) -> None:
    assert fetched(model, ()) == Fetched((), whole=False)


@pytest.mark.parametrize(
    ("words", "others"),
    [
        (["--max-model-len", "8192", "--seed=1"], ()),
        (["--tokenizer", "org/other"], (Repository("org/other"),)),
        (["--tokenizer=org/other", "--tokenizer_revision", "v1"], (Repository("org/other", "v1"),)),
        (["--tokenizer", "/cache/tokenizer"], ()),
        (["--hf-config-path", "org/config"], (Repository("org/config"),)),
        (["--speculative-config", json.dumps({"method": "ngram", "num_speculative_tokens": 3})], ()),
        (["-sc", json.dumps({"model": "org/draft", "revision": "v2"})], (Repository("org/draft", "v2"),)),
        (["--speculative-config", json.dumps({"model": "/cache/draft"})], ()),
    ],
)
def test_what_else_is_fetched_is_known(words: list[str], others: tuple[Repository, ...]) -> None:
    assert fetched("org/model", words) == Fetched((MODEL, *others), whole=True)


def test_the_model_has_the_revision_of_its_flag() -> None:
    assert fetched("org/model", ["--revision", "v1"]).repositories == (Repository("org/model", "v1"),)


@pytest.mark.parametrize(
    "words",
    [
        ["--lora-modules", "a=org/lora"],
        ["--default-mm-loras", "{}"],
        ["--config", "/etc/engine.yaml"],
        ["--tokenizer", "gpt2"],
        ["--speculative-config", json.dumps({"model": "[ngram]"})],
        ["--speculative-config.model", "org/draft"],
        ["--speculative-config", "{"],
        ["--speculative-config"],
    ],
)
def test_what_is_not_clear_is_left_to_the_engine(words: list[str]) -> None:
    assert fetched("org/model", words) == Fetched((MODEL,), whole=False)


def test_an_engine_with_a_place_of_its_own_fetches_all_itself() -> None:
    assert fetched("org/model", ["--download-dir", "/data"]) == Fetched((), whole=False)
