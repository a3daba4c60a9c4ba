"""Judges whether the model can be cut as asked, knows so many tokens, and fits into the GPUs. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from dp_vllm.doctor.config import Config
from dp_vllm.doctor.finding import Finding, ok, problem, size, unknown, warning
from dp_vllm.engine.command import Sizes

UTILIZATION: Final = 0.92
"""vLLM's default."""
_BYTES: Final = {"float32": 4, "float": 4, "float16": 2, "half": 2, "bfloat16": 2}


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the engine's flags ask of the model."""

    sizes: Sizes
    max_model_len: int | None = None
    """None for the model's own, or as much as there is room for."""
    fits_itself: bool = False
    """The engine is to take the length that there is room for."""
    dtype: str = "auto"
    kv_dtype: str = "auto"
    quantization: str = ""
    utilization: float = UTILIZATION
    """Of a GPU's memory, what the engine may take."""
    longer_allowed: bool = False
    foreign_code: bool = False
    """--trust-remote-code."""
    overridden: bool = False
    """Flags change the model's configuration."""


def architecture(config: Config, known: frozenset[str], wanted: Wanted) -> Iterator[Finding]:
    """Whether this vLLM knows the model by name."""
    if not config.architectures:
        yield unknown("architecture", "config.json names none")
    elif not known or any(name in known for name in config.architectures):
        yield ok("architecture", ", ".join(config.architectures))
    else:
        yield warning(
            "architecture",
            f"this vLLM does not know {', '.join(config.architectures)} by name",
            "it may run it with Transformers' code"
            + ("" if wanted.foreign_code else ", or with the model's own (--trust-remote-code)")
            + "; else a newer vLLM is needed",
        )


def cuts(config: Config, sizes: Sizes) -> Iterator[Finding]:
    """Whether tensor and pipeline parallel sizes divide the model."""
    tp, pp = sizes.tensor, sizes.pipeline
    if config.heads and config.heads % tp:
        fitting = ", ".join(str(one) for one in range(1, config.heads + 1) if not config.heads % one and one <= 64)
        yield problem("tp", f"{tp} does not divide the model's {config.heads} attention heads", f"give -tp {fitting}")
    elif config.kv_heads and config.latent is None and config.kv_heads % tp and tp % config.kv_heads:
        yield problem(
            "tp",
            f"{tp} neither divides the model's {config.kv_heads} KV heads nor is a multiple of them",
            f"give a -tp that does, like {config.kv_heads}",
        )
    elif tp > 1 and config.heads:
        copies = tp // config.kv_heads if config.kv_heads and config.latent is None else 1
        twice = f", each of the {config.kv_heads} KV heads is kept {copies} times" if copies > 1 else ""
        yield ok("tp", f"{config.heads // tp} of {config.heads} attention heads on each GPU{twice}")
    if pp > 1 and config.layers:
        if pp > config.layers:
            yield problem("pp", f"{pp} stages for {config.layers} layers", "give a smaller -pp")
        elif config.layers % pp:
            yield warning(
                "pp",
                f"{pp} stages cannot share {config.layers} layers evenly: the largest sets the pace",
                f"a -pp that divides {config.layers}",
            )
        else:
            yield ok("pp", f"{config.layers // pp} of {config.layers} layers in each stage")


def length(config: Config, wanted: Wanted) -> Iterator[Finding]:
    """Whether the model knows positions so far."""
    if config.longest is None or wanted.overridden:
        return
    if wanted.max_model_len is None or wanted.max_model_len <= config.longest:
        yield ok("length", f"{wanted.max_model_len or config.longest} tokens; the model knows {config.longest}")
        return
    said = f"--max-model-len {wanted.max_model_len} is more than the {config.longest} tokens that the model knows"
    if wanted.longer_allowed:
        yield warning("length", said, "answers may be nonsense there; RoPE scaling is set with --hf-overrides")
    else:
        yield problem("length", said, f"give {config.longest} or less, or scale it with --hf-overrides")


def room(weights: int, config: Config, wanted: Wanted, memory: int) -> Finding:
    """Whether the weights fit into a replica's GPUs, each of `memory` bytes, and how many tokens find room beside them.

    The engine takes a little more for the work itself, so that the tokens are at most so many.
    """
    each = _stored(weights, config, wanted) / (wanted.sizes.tensor * wanted.sizes.pipeline)
    usable = memory * wanted.utilization
    said = f"{size(each)} of weights on each GPU, which may hold {size(usable)} of {size(memory)}"
    if wanted.quantization and not config.quantized:
        return unknown("memory", f"{said}; --quantization {wanted.quantization} makes them smaller as it loads them")
    if each > usable:
        return problem("memory", said, _larger(each, usable, config, wanted))
    token = _per_token(config, wanted)
    if token is None:
        return ok("memory", f"{said}; {size(usable - each)} are left for the KV cache and the work")
    tokens = int((usable - each) / token)
    said += f"; room for at most {tokens:,} tokens of KV cache"
    longest = wanted.max_model_len or config.longest
    if longest and tokens < longest and not wanted.fits_itself:
        return problem(
            "memory",
            f"{said}, and one request may have {longest:,}",
            f"give --max-model-len {tokens // 1024 * 1024 or tokens} or less, or auto; or a larger -tp",
        )
    return ok("memory", said)


def _stored(weights: int, config: Config, wanted: Wanted) -> float:
    """The weights' bytes once they are loaded: vLLM halves float32 unless it is told to keep it."""
    if config.quantized:
        return weights
    before = _BYTES.get(config.dtype)
    after = _BYTES.get(wanted.dtype, 2 if before == 4 else before)
    return weights * after / before if before and after else weights


def _per_token(config: Config, wanted: Wanted) -> float | None:
    """Bytes of KV cache of one token on each GPU; None if it is not that simple."""
    if not config.plain or not config.layers or not config.kv_heads or not config.head_size:
        return None
    kept = 2 * config.head_size * max(1, config.kv_heads // wanted.sizes.tensor)
    value = 1 if wanted.kv_dtype.startswith("fp8") else _BYTES.get(wanted.dtype, 2)
    return (config.latent or kept) * value * -(-config.layers // wanted.sizes.pipeline)


def _larger(each: float, usable: float, config: Config, wanted: Wanted) -> str:
    tp = wanted.sizes.tensor
    candidates = (one for one in range(tp + 1, 65) if one % tp == 0 and not (config.heads or one) % one)
    enough = next((one for one in candidates if each * tp / one < 0.9 * usable), None)
    more = f"-tp {enough}" if enough else "more GPUs for each replica"
    return f"give {more}, or a quantized model (fp8 halves it)"


def access(refused: int, *, absent: bool, model: str, has_token: bool) -> Finding:
    """What it means that the hub does not give the model's files."""
    if absent:
        return problem(
            "model",
            f"the hub has no {model}, or none that it shows "
            + ("with this token" if has_token else "without a token")
            + f" (it answered {refused})",
            "look at the spelling and --revision; for a private model set HF_TOKEN; a directory must exist here",
        )
    if has_token:
        return problem(
            "model",
            f"{model} is gated, and your token has no access (the hub answered {refused})",
            f"ask for it at https://huggingface.co/{model}, and give the token the right to read gated models",
        )
    return problem(
        "model",
        f"{model} is gated, and there is no token (the hub answered {refused})",
        f"accept its terms at https://huggingface.co/{model}, then set HF_TOKEN",
    )
