"""How one attempt at a request ended."""

import enum

import msgspec

from dp_vllm_gateway.heads import Returning
from dp_vllm_gateway.retry import Failure


class Whole(msgspec.Struct, frozen=True, gc=False):
    """A complete answer, of which the client has nothing yet."""

    status: int
    headers: Returning
    body: bytes


class Failed(msgspec.Struct, frozen=True, gc=False):
    """No answer, and the client has nothing yet."""

    failure: Failure
    detail: str = ""


class Aborted(msgspec.Struct, frozen=True, gc=False):
    """The engine aborted the request. Whether that is the client's answer depends on what becomes of the engine."""

    whole: Whole | None = None
    """None for a stream: the attempt holds it from the abort on."""


class Passed(enum.Enum):
    """The answer was passed on as it came."""

    COMPLETE = "to its end"
    BROKEN = "until the engine failed; the client was told"


Outcome = Whole | Failed | Passed | Aborted
