"""Lines that vLLM writes, and what a user is told instead."""

import pytest

from dp_vllm.engine import log


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        pytest.param([], "", id="nothing yet"),
        pytest.param(["INFO 08-01 [api_server.py:12] vLLM API server version 0.32.0"], "", id="nothing that tells"),
        pytest.param(
            ["INFO [gpu_model_runner.py] Starting to load model Qwen/Qwen3-8B..."], "loading weights", id="begin"
        ),
        pytest.param(
            [
                "Loading safetensors checkpoint shards:  25% Completed | 1/4 [00:01<00:03]",
                "Loading safetensors checkpoint shards:  50% Completed | 2/4 [00:02<00:02]",
            ],
            "loading weights, 50 %",
            id="the newest line counts",
        ),
        pytest.param(
            ["Capturing CUDA graphs (decode, FULL):  45%|####     | 30/67"], "capturing CUDA graphs, 45 %", id="graphs"
        ),
        pytest.param(["Fetching 4 files:  25%|##5       | 1/4"], "downloading the model, 25 %", id="download"),
    ],
)
def test_progress_of_a_start(lines: list[str], expected: str) -> None:
    assert log.progress(lines) == expected


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        pytest.param([], "", id="it said nothing"),
        pytest.param(["Traceback ...", "ValueError: 7 is too many"], "", id="nothing that is known"),
        pytest.param(
            [
                "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB",
                "RuntimeError: See root cause above.",
            ],
            "the memory of the GPU does not suffice: see who else uses it, or lower --gpu-memory-utilization",
            id="out of memory, said before the end",
        ),
        pytest.param(
            ["vllm: error: unrecognized arguments: --no-such-flag"],
            "the engine does not know --no-such-flag",
            id="flag",
        ),
        pytest.param(
            ["vllm serve: error: argument --dtype: invalid choice: 'x'"],
            "the engine refuses argument --dtype: invalid choice: 'x'",
            id="value",
        ),
        pytest.param(
            ["OSError: nope/nope is not a local folder and is not a valid model identifier listed on the hub"],
            "there is no such model: give a hub id or the path of a model's directory",
            id="model",
        ),
    ],
)
def test_likely_cause_of_an_end(lines: list[str], expected: str) -> None:
    assert log.likely_cause(lines) == expected


def test_a_very_long_line_is_cut() -> None:
    assert len(log.likely_cause(["unrecognized arguments: " + "x" * 10_000])) == log.LONGEST
