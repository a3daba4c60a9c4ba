"""How a program of a run that serves is told of, for tests that look at runs."""

from typing import Final

from dp_vllm.endpoints import State
from dp_vllm.local import standing

SERVING: Final = standing.Program(
    state=State.READY,
    pid=1,
    starts=1,
    ready_seconds=9,
    starting_seconds=None,
    message="",
    failures=0,
    last_end=None,
    stays_down=False,
    log="",
)
