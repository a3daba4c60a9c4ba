"""What is recorded of one request: what the request line says and the metrics count. Never a prompt or a key."""

import re
from typing import Final

import msgspec

from dp_vllm_gateway import bounds

_PROMPT: Final = re.compile(rb'"(?:prompt|input)_tokens":\s*(\d+)\s*[,}]')
_COMPLETION: Final = re.compile(rb'"(?:completion|output)_tokens":\s*(\d+)\s*[,}]')


class Call(msgspec.Struct, gc=False):
    """One request on its way through the gateway; its handler writes it, once it has ended others read it.

    Times are the event loop's, in seconds.
    """

    id: str
    method: str
    path: str
    began_at: float
    route: str = ""
    """The route table's path; empty for one that it does not name."""
    key: str = ""
    """The key's name."""
    admin: bool = False
    """The key is an administrator's."""
    model: str = ""
    stream: bool = False
    replica: str = ""
    reason: str = ""
    """Why the gateway answered itself, or why the answer was broken."""
    status: int = 0
    """499: the client left."""
    attempts: int = 0
    queued_seconds: float = 0.0
    """How long it waited for a replica with room."""
    answered_at: float = 0.0
    """When the first body byte was there; 0 if there was none."""
    ended_at: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    chunks: int = 0
    broken: bool = False
    """The client has a part of the answer and knows that the rest is missing."""

    def usage(self, text: bytes) -> None:
        """Take the tokens that an engine counted, as far as this part of its answer has them; the last usage counts."""
        at = text.rfind(b'"usage":')
        if at < 0:
            return
        prompt = _PROMPT.search(text, at)
        if prompt is not None:
            self.prompt_tokens = bounds.count_of(prompt[1], bounds.MOST_TOKENS)
        completion = _COMPLETION.search(text, at)
        if completion is not None:
            self.completion_tokens = bounds.count_of(completion[1], bounds.MOST_TOKENS)
