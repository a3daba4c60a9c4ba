"""Names that several programs must agree on: ports, environment variables, headers."""

from typing import Final

DEFAULT_PORT: Final = 8000

API_KEY_VARIABLE: Final = "DP_VLLM_API_KEY"
"""API keys of the endpoint, separated by white space. `VLLM_API_KEY` is read too, and removed from every engine."""

REPLICA_HEADER: Final = "x-dp-vllm-replica"
"""Response header: the name of the replica that answered."""

WAIT_HEADER: Final = "x-dp-vllm-wait"
"""Request header: how many seconds the client is ready to wait for a first replica."""
