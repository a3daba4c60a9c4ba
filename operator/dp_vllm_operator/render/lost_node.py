"""How long pods wait for a node that is not heard of. Pure."""

from collections.abc import Sequence
from typing import Any, Final

SECONDS: Final = 60
"""Then they are made on another. The API server's own are 300."""

_STATES: Final = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")


def tolerations(given: Sequence[dict[str, Any]] = ()) -> list[dict[str, Any]]:
    """Those that are given, and ours where they say nothing of a lost node."""
    return [*given] + [
        {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": SECONDS}
        for key in _STATES
        if not any(one.get("key") in (None, "", key) and one.get("effect") in (None, "", "NoExecute") for one in given)
    ]
