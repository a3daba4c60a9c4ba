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
    assert str(log.stage(lines) or "") == expected


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
            id="what is wrong and what helps",
        ),
    ],
)
def test_likely_cause_of_an_end(lines: list[str], expected: str) -> None:
    assert log.likely_cause(lines) == expected


def test_a_very_long_line_is_cut() -> None:
    assert len(log.likely_cause(["unrecognized arguments: " + "x" * 10_000])) == log.LONGEST


START = """\
(EngineCore pid=1026) INFO 04-24 12:14:36 [gpu_model_runner.py:4735] Starting to load model Qwen/Qwen3-0.6B...
(EngineCore pid=1026) INFO 04-24 12:14:43 [weight_utils.py:581] Time spent downloading weights for Qwen: 5.324 seconds
(EngineCore pid=1026) Loading safetensors checkpoint shards:   0% Completed | 0/10 [00:00<?, ?it/s]
(EngineCore pid=1026) Loading safetensors checkpoint shards:  70% Completed | 7/10 [00:00<00:00, 12.69it/s]
(EngineCore pid=1026) INFO 04-24 12:14:45 [gpu_model_runner.py:4820] Model loading took 0.53 GiB and 7.125418 seconds
(EngineCore pid=1026) INFO 04-24 12:14:49 [backends.py:1051] Using cache directory: /cache for vLLM's torch.compile
(EngineCore pid=1026) INFO 04-24 12:15:41 [kv_cache_utils.py:1319] GPU KV cache size: 251,584 tokens
Capturing CUDA graphs (decode, FULL):   0%|          | 0/35 [00:00<?]Capturing CUDA graphs (decode, FULL):  51%|#####
(EngineCore pid=1026) INFO 04-24 12:15:43 [gpu_model_runner.py:6046] Graph capturing finished in 2 secs, took 0.27 GiB
(APIServer pid=1) INFO:     Application startup complete.
""".splitlines()


@pytest.mark.parametrize(
    ("lines", "phase", "percent"),
    [
        (1, "Loading", None),
        (3, "Loading", 0),
        (4, "Loading", 70),
        (5, "Loading", None),
        (6, "Compiling", None),
        (7, "WarmingUp", None),
        (8, "Capturing", 51),
        (9, "Capturing", 51),
        (10, "WarmingUp", None),
    ],
)
def test_stages_of_a_start(lines: int, phase: str, percent: int | None) -> None:
    stage = log.stage(START[:lines])
    assert stage is not None and (stage.phase, stage.percent) == (phase, percent)


COMPILED = """\
(APIServer pid=5023) INFO 11-21 22:12:49 [model.py:733] Resolved architecture: LlamaForCausalLM
(EngineCore pid=5367) INFO 11-21 22:13:09 [cpu_model_runner.py:68] Starting to load model /models/tiny...
Loading safetensors checkpoint shards: 100% Completed | 1/1 [00:00<00:00, 282.96it/s]
(EngineCore pid=5367) INFO 11-21 22:13:09 [default_loader.py:501] Loading weights took 0.01 seconds
(EngineCore pid=5367) INFO 11-21 22:13:10 [cpu_model_runner.py:87] Warming up model for the compilation...
(EngineCore pid=5367) INFO 11-21 22:14:16 [decorators.py:743] [backbone] saved AOT compiled function to /cache/model
(EngineCore pid=5367) INFO 11-21 22:14:16 [kv_cache_utils.py:2327] CPU KV cache size: 131,072 tokens
INFO:     Application startup complete.
""".splitlines()


def test_others_share_what_an_engine_of_the_cpu_build_did_once_its_model_is_compiled() -> None:
    stages = [stage for count in range(1, len(COMPILED) + 1) if (stage := log.stage(COMPILED[:count]))]
    assert [stage.phase for stage in stages] == [*["Loading"] * 4, "Compiling", *["WarmingUp"] * 3]
    assert [stage.is_past_compiling for stage in stages] == [*[False] * 5, *[True] * 3]


def test_an_engine_that_shall_not_compile_does_not_compile() -> None:
    read = "(APIServer pid=1) INFO 11-21 17:00:00 [model.py:1] Resolved architecture: LlamaForCausalLM"
    eager = "(APIServer pid=1) WARNING 11-21 17:00:01 [vllm.py:1] Enforce eager set, disabling torch.compile, and more"

    stage = log.stage([read, eager])
    assert stage is not None and (stage.phase, stage.words) == ("Loading", "reading the model's configuration")


def test_no_stage_without_a_line_that_says_so() -> None:
    assert log.stage(["INFO 08-01 [api_server.py:12] vLLM API server version 0.32.0"]) is None


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        pytest.param([], "", id="it said nothing"),
        pytest.param(["", "  "], "", id="blanks"),
        pytest.param(["cannot prepare", ""], "cannot prepare", id="last words"),
        pytest.param(
            [
                "(EngineCore pid=1504) ERROR 04-24 12:35:30 [core.py:1108] torch.AcceleratorError: CUDA error: bad",
                "(EngineCore pid=1504) ERROR 04-24 12:35:30 [core.py:1108] For debugging consider passing ...",
                "(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above.",
            ],
            "torch.AcceleratorError: CUDA error: bad",
            id="the root cause, without vLLM's prefix",
        ),
        pytest.param(["ValueError: 7 is too many", "INFO begin"], "ValueError: 7 is too many", id="out of order"),
    ],
)
def test_last_error_of_an_engine(lines: list[str], expected: str) -> None:
    assert log.last_error(lines) == expected
