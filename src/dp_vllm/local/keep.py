"""What a `Child` needs to know of its program: what to run, how to read it, what to do about its end."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from dp_vllm.engine.log import Stage
from dp_vllm.local.aftermath import Aftermath
from dp_vllm.local.gpu_memory import GpuMemory
from dp_vllm.local.hub_access import Access
from dp_vllm.local.plan import Limits
from dp_vllm.local.process import Program


@dataclass(frozen=True, slots=True)
class Keep:
    """What to keep running, and how to read it."""

    program: Program
    limits: Limits
    is_ready: Callable[[], Awaitable[bool]]
    stage: Callable[[Sequence[str]], Stage | None]
    """How far a start is, by the last lines of the log; None if they do not say."""
    address: str = ""
    """Where it will listen: `host:port`, or `unix:/path`, which a former life left and is removed before each start."""
    gpu_memory: GpuMemory | None = None
    """What has to be back before each further start."""
    hub: Access = field(default_factory=Access)
    """Whether it may ask the hub when it starts."""
    models: tuple[str, ...] = ()
    """What clients call the model that it serves, where that is known beforehand."""
    aftermath: Aftermath = field(default_factory=Aftermath)
    """What is done about its end."""
