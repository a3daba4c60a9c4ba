"""What a model's config.json says that decides whether it can be served as asked. Pure.

The rules are vLLM 0.32's: `ModelConfig.verify_with_parallel_config`, `_get_and_verify_max_len`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

_LENGTHS: Final = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    "model_max_length",
    "max_target_positions",
    "max_sequence_length",
    "max_seq_length",
    "seq_len",
)
_SCALED_ALREADY: Final = ("su", "longrope", "llama3", "yarn", "deepseek_yarn", "deepseek_llama_scaling", "default")
"""Kinds of RoPE scaling whose models state the scaled length."""
_NOT_PLAIN: Final = (
    "sliding_window",
    "attention_chunk_size",
    "ssm_cfg",
    "mamba_d_state",
    "state_size",
    "linear_num_value_heads",
    "hybrid_override_pattern",
    "attn_layer_indices",
    "multi_query",
    "new_decoder_architecture",
)
"""Where one of these is set, the KV cache of a token is not what the heads say."""


@dataclass(frozen=True, slots=True)
class Config:
    """The numbers; None for what it does not say."""

    architectures: tuple[str, ...] = ()
    heads: int | None = None
    kv_heads: int | None = None
    layers: int | None = None
    head_size: int | None = None
    longest: int | None = None
    """Tokens."""
    dtype: str = ""
    quantized: str = ""
    """By which method the weights are stored; empty if by none."""
    latent: int | None = None
    """Values that a token has in each layer's cache, with multi-head latent attention."""
    plain: bool = True
    """Every layer keeps keys and values of all tokens."""


def read(content: Any) -> Config | None:
    """None if it is no configuration."""
    if not isinstance(content, dict):
        return None
    text = next((content[key] for key in ("text_config", "llm_config") if isinstance(content.get(key), dict)), content)
    heads = _number(text, "num_attention_heads", "n_head", "num_heads", "n_heads")
    width = _number(text, "hidden_size", "n_embd", "d_model")
    rank, rope = _number(text, "kv_lora_rank"), _number(text, "qk_rope_head_dim")
    return Config(
        architectures=_words(content.get("architectures")),
        heads=heads,
        kv_heads=_number(text, "num_key_value_heads", "num_kv_heads") or heads,
        layers=_number(text, "num_hidden_layers", "n_layer", "n_layers", "num_layers"),
        head_size=_number(text, "head_dim") or (width // heads if width and heads else None),
        longest=_longest(text, str(content.get("model_type", ""))),
        dtype=_dtype(content) or _dtype(text),
        quantized=_method(content) or _method(text),
        latent=rank + rope if rank and rope else None,
        plain=not any(text.get(key) for key in _NOT_PLAIN) and _all_alike(text.get("layer_types")),
    )


def _number(text: Mapping[str, Any], *keys: str) -> int | None:
    found = (text.get(key) for key in keys)
    return next((one for one in found if isinstance(one, int) and not isinstance(one, bool) and one > 0), None)


def _words(value: Any) -> tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, Sequence) and not isinstance(value, str) else ()


def _dtype(text: Mapping[str, Any]) -> str:
    return str(text.get("dtype") or text.get("torch_dtype") or "").removeprefix("torch.")


def _method(text: Mapping[str, Any]) -> str:
    found = text.get("quantization_config")
    return str(found.get("quant_method") or "some method") if isinstance(found, dict) else ""


def _all_alike(kinds: Any) -> bool:
    return not isinstance(kinds, list) or all(kind == "full_attention" for kind in kinds)


def _longest(text: Mapping[str, Any], kind: str) -> int | None:
    stated = _number(text, "model_max_length") or min(
        (length for key in _LENGTHS if (length := _number(text, key))), default=None
    )
    if stated is None or "gemma3" in kind:
        return stated
    scaling = text.get("rope_parameters") or text.get("rope_scaling")
    if not isinstance(scaling, dict):
        return stated
    if scaling and all(isinstance(one, dict) for one in scaling.values()):  # one for each kind of layer
        scaling = next(iter(scaling.values()))
    factor = scaling.get("factor")
    scaled = scaling.get("rope_type", scaling.get("type", "default")) in _SCALED_ALREADY
    return stated if scaled or not isinstance(factor, int | float) else int(stated * factor)
