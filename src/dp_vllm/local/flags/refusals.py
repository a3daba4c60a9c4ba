"""vLLM's flags that make no sense with independent replicas on one machine: what is wrong, and what to do instead."""

from typing import Final

from dp_vllm.engine.flags import Typed

_RANKS: Final = (
    "dp-vllm's -dp starts complete, independent copies of the model, which have no ranks; "
    "experts spread over data-parallel ranks are one engine: start it with `vllm serve MODEL -dp N ...`"
)
_NODES: Final = (
    "dp-vllm serve runs replicas that fit into one machine; start an engine that spans several with `vllm serve`, "
    "and put `dp-vllm gateway --replica http://HOST:PORT` in front of such engines"
)
_GRPC: Final = "the endpoint speaks HTTP to its engines and its clients; leave it out, or run `vllm serve` itself"

_REFUSED: Final = {
    **dict.fromkeys(
        (
            "--data-parallel-size-local",
            "--data-parallel-start-rank",
            "--data-parallel-rank",
            "--data-parallel-address",
            "--data-parallel-rpc-port",
            "--data-parallel-backend",
            "--data-parallel-hybrid-lb",
            "--data-parallel-external-lb",
            "--data-parallel-multi-port-external-lb",
            "--data-parallel-supervisor-port",
        ),
        _RANKS,
    ),
    **dict.fromkeys(("--nnodes", "--node-rank", "--master-addr", "--master-port"), _NODES),
    "--headless": "an engine without an API server cannot stand behind the endpoint; leave it out",
    "--grpc": _GRPC,
    "--grpc-port": _GRPC,
    "--api-server-count": "each replica has one API server, and the gateway spreads requests; raise -dp instead",
    "--enable-ssl-refresh": "the endpoint reads its certificate when it starts; leave it out and restart to renew it",
}
_HARMLESS: Final = {"--nnodes": "1", "--node-rank": "0", "--api-server-count": "1"}
"""Values that say what is the case anyway; the flag is then dropped."""

NAMES: Final = frozenset(_REFUSED)
EXPERT_PARALLEL: Final = "--enable-expert-parallel"


def refusal(item: Typed) -> str:
    """Why this flag cannot be taken; empty if it says what is the case anyway."""
    assert item.flag is not None
    if item.off or item.values == (_HARMLESS.get(item.flag.name),):
        return ""
    return _REFUSED[item.flag.name]


def expert_refusal(copies: int) -> str:
    """Why expert parallelism does not go with several copies."""
    return (
        f"--data-parallel-size: {copies} with {EXPERT_PARALLEL} would be {copies} complete copies of the model, each "
        "with all experts; experts spread over data-parallel ranks are one engine: start it with "
        f"`vllm serve MODEL -dp {copies} {EXPERT_PARALLEL}`, or drop one of the two flags"
    )
