"""What the engine's flags, typed or in the `--config` file, ask of the model and the GPUs. Pure."""

import re
from collections.abc import Mapping
from typing import Final

from dp_vllm.doctor.of_model import UTILIZATION, Wanted
from dp_vllm.local.flags.config_file import ConfigFile
from dp_vllm.local.flags.engines import values
from dp_vllm.local.models import Model

_MULTIPLIERS: Final = {"k": 10**3, "m": 10**6, "K": 2**10, "M": 2**20, "": 1}


def wanted(model: Model, config: ConfigFile | None, environ: Mapping[str, str]) -> Wanted:
    """What is to be judged. A value that cannot be read is left to the engine."""
    given = values(model.words, config)
    environ = {**environ, **model.variables}
    length = _only(given, "--max-model-len")
    return Wanted(
        sizes=model.sizes,
        max_model_len=_count(length),
        fits_itself=length in ("auto", "-1"),
        dtype=_only(given, "--dtype") or "auto",
        kv_dtype=_only(given, "--kv-cache-dtype") or "auto",
        quantization=_only(given, "--quantization"),
        utilization=_fraction(_only(given, "--gpu-memory-utilization")) or UTILIZATION,
        longer_allowed=environ.get("VLLM_ALLOW_LONG_MAX_MODEL_LEN", "").lower() in ("1", "true"),
        foreign_code="--trust-remote-code" in given,
        overridden="--hf-overrides" in given or "--hf-config-path" in given,
    )


def _only(given: Mapping[str, tuple[str, ...]], flag: str) -> str:
    found = given.get(flag, ())
    return found[0] if found else ""


def _count(text: str) -> int | None:
    match = re.fullmatch(r"([0-9]{1,18}(?:\.[0-9]+)?)([kKmM]?)", text)
    return int(float(match[1]) * _MULTIPLIERS[match[2]]) if match else None


def _fraction(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 < value <= 1 else None
