"""Simulated engines that most tests share, and the official client for one."""

from collections.abc import Iterator
from contextlib import ExitStack

import programs
import pytest
from openai import OpenAI

FLAGS = (
    *("--served-model-name", "demo/model", "other-name"),
    *("--enable-prompt-tokens-details", "--enable-server-load-tracking", "--enable-request-id-headers"),
    *("--max-model-len", "2048", "--enable-lora", "--lora-modules", "first=/adapters/first"),
    *("--enable-tokenizer-info-endpoint", "--sim-decode-step-seconds", "0.001"),
)
VARIABLES = {
    "VLLM_SERVER_DEV_MODE": "1",
    "VLLM_ENABLE_RESPONSES_API_STORE": "1",
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
}


@pytest.fixture(scope="session")
def sim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[programs.Program]:
    """A quick engine with every route of a model that generates."""
    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in VARIABLES.items():
                patch.setenv(name, value)
            program = stack.enter_context(programs.sim(tmp_path_factory.mktemp("sim"), *FLAGS))
        yield program


@pytest.fixture(scope="session")
def pooling(tmp_path_factory: pytest.TempPathFactory) -> Iterator[programs.Program]:
    """An engine whose model makes vectors."""
    with programs.sim(tmp_path_factory.mktemp("pooling"), "--runner", "pooling") as program:
        yield program


@pytest.fixture(scope="session")
def client(sim: programs.Program) -> Iterator[OpenAI]:
    with OpenAI(base_url=sim.url + "/v1", api_key="none", max_retries=0) as made:
        yield made
