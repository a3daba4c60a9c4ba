"""The environment variables that a DPModel's `engine.env` may not have, and why. Pure."""

from collections.abc import Sequence
from typing import Final

from dp_vllm.spec.engine import EnvVar

OWNED: Final = {
    "VLLM_API_KEY": "use spec.apiKeySecretRef: the gateway asks clients for a key, engines have none",
    "VLLM_DP_": "use spec.replicas: each replica is one engine, and no rank of another",
    "DP_VLLM_": "leave it out: these are the operator's own",
}
"""By name; one that ends with `_` stands for all that begin with it."""


def refusal(env: Sequence[EnvVar]) -> tuple[int, str] | None:
    """The first variable that cannot be taken, by its number, and why; None if all can be."""
    for number, variable in enumerate(env):
        for owned, instead in OWNED.items():
            if variable["name"] == owned or (owned.endswith("_") and variable["name"].startswith(owned)):
                return number, instead
    return None
