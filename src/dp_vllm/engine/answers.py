"""How an engine says, in an HTTP answer, that another replica should be asked instead.

The texts are vLLM's own, seen on 0.32: they have no code of their own to be told by.
"""

from typing import Final

_DRAINING: Final = b"cannot schedule new futures after shutdown"
_DEAD: Final = (b"EngineCore encountered an issue", b"EngineDeadError", b"EngineCore died")


def is_draining(status: int, body: bytes) -> bool:
    """The engine was told to end and takes nothing new; its `/health` still says 200."""
    return status == 500 and _DRAINING in body


def is_dead(body: bytes) -> bool:
    """The server answers, but the engine behind it has died; the server ends seconds later."""
    return any(text in body for text in _DEAD)


def is_busy(status: int) -> bool:
    """The engine's own queue is full (`--max-num-queued-reqs`), or it is not ready: it did nothing."""
    return status == 503
