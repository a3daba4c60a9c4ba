"""The simulator's own numbers: each is a flag `--sim-...` and a variable `DP_VLLM_SIM_...`; the table says which.

The defaults are quick on a laptop. For the pace of an 8B model on one H100 say: 40000 prefill tokens/s, a step of
0.009 s, a growth of 0.00003 s, 27000 blocks, 40 s to load.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from dp_vllm.errors import BadSettings


@dataclass(frozen=True, slots=True)
class Setting:
    """One number of the simulation."""

    name: str
    default: float
    unit: str
    help: str
    least: float = 0.0

    @property
    def flag(self) -> str:
        return f"--sim-{self.name}"

    @property
    def variable(self) -> str:
        return "DP_VLLM_SIM_" + self.name.upper().replace("-", "_")


SETTINGS: Final = (
    Setting("prefill-tokens-per-second", 50_000, "tokens/s", "prompt tokens that a step computes in a second", 1e-3),
    Setting("decode-step-seconds", 0.005, "s", "length of a step, however few sequences it has"),
    Setting("decode-growth-seconds", 0.00001, "s", "what each decoding sequence adds to a step"),
    Setting("kv-blocks", 32_768, "blocks", "KV cache; vLLM's --num-gpu-blocks-override beats it", 1),
    Setting("load-seconds", 0.3, "s", "from the start until the model is loaded, all phases together"),
    Setting("host-cores", 4, "cores", "with --sim-host: so many engines of it compile at once at full speed", 1),
    Setting("reply-tokens", 64, "tokens", "length of a reply that its request does not limit", 1),
    Setting("embedding-size", 64, "numbers", "length of an embedding", 1),
)

HOST_FLAG: Final = "--sim-host"
FAULT_FLAG: Final = "--sim-fault"
FAULT_VARIABLE: Final = "DP_VLLM_SIM_FAULT"


def read(flag: Callable[[str], str | None], environment: Mapping[str, str]) -> dict[str, float]:
    """Every setting's value: the flag, else the variable, else the default. Raises BadSettings."""
    values = {}
    for setting in SETTINGS:
        given, source = flag(setting.flag), setting.flag
        if given is None:
            given, source = environment.get(setting.variable), setting.variable
        values[setting.name] = setting.default if given is None else _number(given, source, setting)
    return values


def _number(given: str, source: str, setting: Setting) -> float:
    try:
        value = float(given)
    except ValueError:
        value = float("nan")
    if not setting.least <= value < float("inf"):
        raise BadSettings(f"{source}: {given!r} is not a number of {setting.unit} from {setting.least:g} up")
    return value
