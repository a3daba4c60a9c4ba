"""What is made of the facts, case by case."""

from collections.abc import Iterable
from typing import Any

import pytest
from doctor.conftest import QWEN

from dp_vllm.doctor import checkpoint, of_gpus, of_host, of_memory, of_model
from dp_vllm.doctor.asked import wanted
from dp_vllm.doctor.config import Config, read
from dp_vllm.doctor.finding import Finding
from dp_vllm.doctor.installed import Installed
from dp_vllm.doctor.nvml import Card, Cards
from dp_vllm.doctor.of_host import Host
from dp_vllm.doctor.of_model import Wanted
from dp_vllm.engine.command import Sizes
from dp_vllm.local import command_line
from dp_vllm.local.flags import split
from dp_vllm.local.models import typed

GIB = 2**30


def levels(findings: Iterable[Finding]) -> list[str]:
    return [one.level.value for one in findings]


def config(**changed: Any) -> Config:
    found = read(QWEN | changed)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("built", "driver", "level"),
    [
        ((12, 8), (12, 8), "ok"),
        ((12, 8), (12, 2), "ok"),  # an older driver of the same major version
        ((12, 8), (13, 0), "ok"),
        ((13, 0), (12, 8), "problem"),
        (None, (12, 8), "problem"),
        ((12, 8), (), "unknown"),
    ],
)
def test_driver_and_pytorch(built: tuple[int, ...] | None, driver: tuple[int, ...], level: str) -> None:
    assert levels(of_gpus.cuda(Cards("5", driver), Installed("2.9", built))) == [level]


@pytest.mark.parametrize(
    ("nvlinks", "warned"),
    [((18, 18, 18), []), ((18, 17, 18), ["GPU 1"]), ((4, 4, 0), []), ((0, 0), [])],
    ids=["all", "one is down", "one without a bridge", "none"],
)
def test_nvlinks_that_are_down(nvlinks: tuple[int, ...], warned: list[str]) -> None:
    found = of_gpus.nvlinks(Cards(cards=tuple(Card(str(place), nvlinks=count) for place, count in enumerate(nvlinks))))
    assert [one.found[:5] for one in found] == warned


@pytest.mark.parametrize(
    ("capability", "dtype", "found"),
    [((7, 5), "bfloat16", ["problem"]), ((7, 5), "auto", ["ok"]), ((7, 5), "half", []), ((9, 0), "bfloat16", [])],
)
def test_old_gpus_do_not_know_bfloat16(capability: tuple[int, int], dtype: str, found: list[str]) -> None:
    assert levels(of_gpus.number_format([Card("0", capability=capability)], dtype)) == found


@pytest.mark.parametrize(
    ("free", "holders", "utilization", "level", "advice"),
    [
        (79, [], 0.92, "ok", ""),
        (76, ["process 7"], 0.92, "warning", "it is enough to start, and others compute there too"),
        (
            40,
            ["process 7"],
            0.92,
            "problem",
            "end what holds it: engines need 92% free, or give --gpu-memory-utilization 0.49 or less",
        ),
        (40, ["process 7"], 0.4, "warning", "it is enough to start, and others compute there too"),
        (
            4,
            [],
            0.92,
            "problem",
            "find what holds it (`nvidia-smi`, as root `fuser -v /dev/nvidia*`): engines need 92% free, "
            "or choose others (--device-ids)",
        ),
    ],
)
def test_memory_that_others_hold(free: int, holders: list[str], utilization: float, level: str, advice: str) -> None:
    (found,) = of_memory.held({0: Card("0", total=80 * GIB, free=free * GIB)}, {0: holders}, utilization)
    assert (found.level.value, found.advice) == (level, advice)


@pytest.mark.parametrize(
    ("total", "free", "gpus", "found"),
    [
        (64, 64, 1, ["ok"]),
        (64, 64, 2, ["problem"]),
        (512_000, 512_000, 2, ["ok"]),
        (512_000, 100, 2, ["warning"]),
        (None, 0, 1, ["problem"]),
    ],
)
def test_shared_memory(total: int | None, free: int, gpus: int, found: list[str]) -> None:
    host = Host(total and total * 2**20, free * 2**20)
    assert levels(of_host.shared_memory(host, 4, Sizes(tensor=gpus))) == found


def test_limits() -> None:
    assert of_host.open_files(Host(files=1024)).level == "warning"
    assert of_host.open_files(Host(files=65536)).level == of_host.open_files(Host()).level == "ok"
    two = Sizes(tensor=2)
    assert levels(of_host.locked_memory(Host(locked=65536, infiniband=True), two)) == ["warning"]
    assert levels(of_host.locked_memory(Host(infiniband=True), two)) == ["ok"]
    assert levels(of_host.locked_memory(Host(locked=65536), two)) == []


@pytest.mark.parametrize(
    ("free", "missing", "level"),
    [(10, 20, "problem"), (20, 10, "ok"), (None, 10, "unknown"), (None, 0, "ok"), (10, None, "ok")],
)
def test_disk(free: int | None, missing: int | None, level: str) -> None:
    assert of_host.disk("/cache", free, missing).level == level


@pytest.mark.parametrize(
    ("changed", "sizes", "found"),
    [
        ({}, Sizes(4), ["ok"]),
        ({}, Sizes(3), ["problem"]),
        ({}, Sizes(16), ["ok"]),  # each KV head twice
        ({"num_key_value_heads": 6}, Sizes(4), ["problem"]),
        ({"num_attention_heads": 40, "num_key_value_heads": 10}, Sizes(20), ["ok"]),
        ({"text_config": {"num_attention_heads": 6}}, Sizes(4), ["problem"]),
        ({"num_attention_heads": None}, Sizes(4), []),
        ({}, Sizes(1, 6), ["ok"]),
        ({}, Sizes(1, 5), ["warning"]),
        ({}, Sizes(1, 37), ["problem"]),
    ],
)
def test_cuts(changed: dict[str, Any], sizes: Sizes, found: list[str]) -> None:
    assert levels(of_model.cuts(config(**changed), sizes)) == found


@pytest.mark.parametrize(
    ("changed", "asked", "found"),
    [
        ({}, Wanted(Sizes()), ["ok"]),
        ({}, Wanted(Sizes(), 40960), ["ok"]),
        ({}, Wanted(Sizes(), 40961), ["problem"]),
        ({}, Wanted(Sizes(), 40961, longer_allowed=True), ["warning"]),
        ({}, Wanted(Sizes(), 40961, overridden=True), []),
        ({"rope_scaling": {"rope_type": "linear", "factor": 2}}, Wanted(Sizes(), 80_000), ["ok"]),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, Wanted(Sizes(), 80_000), ["problem"]),
        ({"model_max_length": 100_000}, Wanted(Sizes(), 80_000), ["ok"]),
        ({"max_position_embeddings": None}, Wanted(Sizes(), 80_000), []),
    ],
)
def test_length(changed: dict[str, Any], asked: Wanted, found: list[str]) -> None:
    assert levels(of_model.length(config(**changed), asked)) == found


@pytest.mark.parametrize(
    ("gib", "memory", "changed", "asked", "level", "part"),
    [
        (16, 24, {}, Wanted(Sizes()), "ok", "room for at most 44,273 tokens"),
        (16, 24, {}, Wanted(Sizes(2)), "ok", "8.0 GiB of weights on each GPU"),
        (
            16,
            16,
            {},
            Wanted(Sizes()),
            "problem",
            "16.0 GiB of weights on each GPU, which may hold 14.7 GiB of 16.0 GiB",
        ),
        (16, 20, {}, Wanted(Sizes()), "problem", "and one request may have 40,960"),
        (16, 20, {}, Wanted(Sizes(), 8192), "ok", ""),
        (16, 20, {}, Wanted(Sizes(), fits_itself=True), "ok", ""),
        (16, 20, {}, Wanted(Sizes(), kv_dtype="fp8"), "problem", "room for at most 34,952"),
        (32, 24, {"dtype": "float32"}, Wanted(Sizes()), "ok", "16.0 GiB of weights"),
        (32, 24, {"dtype": "float32"}, Wanted(Sizes(), dtype="float32"), "problem", "32.0 GiB of weights"),
        (16, 16, {}, Wanted(Sizes(), quantization="fp8"), "unknown", "--quantization fp8 makes them smaller"),
        (16, 24, {"sliding_window": 4096}, Wanted(Sizes()), "ok", "6.1 GiB are left for the KV cache"),
        (16, 24, {"kv_lora_rank": 512, "qk_rope_head_dim": 64}, Wanted(Sizes()), "ok", "room for at most 157,415"),
    ],
)
def test_room(gib: float, memory: float, changed: dict[str, Any], asked: Wanted, level: str, part: str) -> None:
    found = of_model.room(int(gib * GIB), config(**changed), asked, int(memory * GIB))
    assert found.level == level and part in found.found


def test_what_is_too_large_is_told_how_many_gpus_are_enough() -> None:
    found = of_model.room(140 * GIB, config(), Wanted(Sizes(2)), 24 * GIB)
    assert found.advice == "give -tp 8, or a quantized model (fp8 halves it)"


@pytest.mark.parametrize(
    ("names", "known", "level"),
    [
        (["A"], frozenset({"A"}), "ok"),
        (["A"], frozenset({"B"}), "warning"),
        (["A"], frozenset(), "ok"),
        ([], frozenset({"A"}), "unknown"),
    ],
)
def test_architecture(names: list[str], known: frozenset[str], level: str) -> None:
    assert levels(of_model.architecture(config(architectures=names), known, Wanted(Sizes()))) == [level]


@pytest.mark.parametrize("content", [None, [], "text", 3])
def test_what_is_no_configuration(content: object) -> None:
    assert read(content) is None


def test_a_configuration_of_nonsense_says_nothing() -> None:
    assert read({"layer_types": [[1]], "quantization_config": 3, "rope_parameters": {"a": 1}}) == Config(plain=False)
    assert (
        read({"architectures": "x", "num_attention_heads": "many", "layer_types": [], "rope_scaling": []}) == Config()
    )


@pytest.mark.parametrize(
    ("files", "total"),
    [
        ({"model-1.safetensors": 5, "model-2.safetensors": 6, "pytorch_model.bin": 11, "config.json": 1}, 11),
        ({"pytorch_model.bin": 11, "training_args.bin": 1}, 11),
        ({"consolidated.safetensors": 9, "model.safetensors": 9}, 9),
        ({"consolidated.safetensors": 9}, 9),
        ({"model.gguf": 4}, 4),
        ({"model.safetensors": 9, "original/consolidated.safetensors": 9, "onnx/model.safetensors": 9}, 9),
        ({"README.md": 4}, 0),
    ],
)
def test_weights_are_counted_once(files: dict[str, int], total: int) -> None:
    assert checkpoint.weights(files) == total


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", Wanted(Sizes())),
        ("-tp 2 --max-model-len 32K", Wanted(Sizes(2), 32768)),
        ("--max-model-len=25.6k", Wanted(Sizes(), 25600)),
        ("--max_model_len auto", Wanted(Sizes(), fits_itself=True)),
        ("--max-model-len -1", Wanted(Sizes(), fits_itself=True)),
        ("--gpu-memory-utilization 0.5 --dtype half", Wanted(Sizes(), utilization=0.5, dtype="half")),
        ("--gpu-memory-utilization nan", Wanted(Sizes())),
        ("-q fp8 --kv-cache-dtype fp8", Wanted(Sizes(), quantization="fp8", kv_dtype="fp8")),
        ("--trust-remote-code --hf-overrides {}", Wanted(Sizes(), foreign_code=True, overridden=True)),
    ],
)
def test_flags(words: str, expected: Wanted) -> None:
    asked = command_line.divided(split.FLAGS.read(["m", *words.split()]), {})
    assert wanted(typed(asked, None), None, {}) == expected
