"""What the tests of this directory share: a stand-in driver, a stand-in vLLM, models that are nothing but sizes."""

import json
from pathlib import Path
from typing import Any

import pytest
from topology import stand_in_driver
from topology.stand_in_driver import Driver


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stand_in_driver.install(tmp_path_factory.mktemp("driver")).directory / "libnvidia-ml.so.1"


@pytest.fixture
def driver(library: Path, tmp_path: Path) -> Driver:
    """A driver that says nothing yet."""
    (tmp_path / library.name).symlink_to(library)
    return Driver(tmp_path)


@pytest.fixture
def vllm(tmp_path: Path) -> Path:
    """What pip leaves of a vLLM for CUDA 12, as far as it is read."""
    packages = tmp_path / "venv" / "lib" / "python3.12" / "site-packages"
    (packages / "vllm-0.32.0.dist-info").mkdir(parents=True)
    (packages / "torch").mkdir()
    (packages / "torch" / "version.py").write_text("__version__ = '2.9.0+cu128'\ncuda: Optional[str] = '12.8'\n")
    models = packages / "vllm" / "model_executor" / "models"
    models.mkdir(parents=True)
    (models / "registry.py").write_text('_MODELS = {\n    "Qwen3ForCausalLM": ("qwen3", "Qwen3ForCausalLM"),\n}\n')
    executable = tmp_path / "venv" / "bin" / "vllm"
    executable.parent.mkdir()
    executable.write_text("#!/bin/sh\n")
    executable.chmod(0o755)
    return executable


QWEN: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "num_hidden_layers": 36,
    "max_position_embeddings": 40960,
    "dtype": "bfloat16",
}
"""Qwen3-8B's."""


def make_model(directory: Path, gib: float, config: dict[str, Any] | None = None) -> Path:
    """A model directory whose weights take no room on the disk."""
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(config or QWEN))
    for part in (1, 2):
        with (directory / f"model-0000{part}-of-00002.safetensors").open("wb") as file:
            file.truncate(int(gib * 2**29))
    return directory
