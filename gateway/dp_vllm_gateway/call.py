"""What is recorded of one request: what the request line says and the metrics count. Never a prompt or a key."""

import msgspec


class Call(msgspec.Struct, gc=False):
    """One request on its way through the gateway; its handler writes it, once it has ended others read it.

    Times are the event loop's, in seconds.
    """

    id: str
    method: str
    path: str
    began_at: float
    key: str = ""
    """The key's name."""
    model: str = ""
    stream: bool = False
    replica: str = ""
    reason: str = ""
    """Why the gateway answered itself, or why the answer was broken."""
    status: int = 0
    """499: the client left."""
    attempts: int = 0
    answered_at: float = 0.0
    """When the first body byte was there; 0 if there was none."""
    ended_at: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    chunks: int = 0
    broken: bool = False
    """The client has a part of the answer and knows that the rest is missing."""

    def usage(self, text: bytes) -> None:
        """Take the tokens that an engine counted from the end of its answer, if it says them."""
        at = text.rfind(b'"usage":')
        if at >= 0:
            self.prompt_tokens = _number(text, b'prompt_tokens":', at) or _number(text, b'input_tokens":', at)
            self.completion_tokens = _number(text, b'completion_tokens":', at) or _number(text, b'output_tokens":', at)


def _number(text: bytes, name: bytes, start: int) -> int:
    """The whole number behind a name; 0 if there is none."""
    at = text.find(name, start)
    if at < 0:
        return 0
    begin = at + len(name)
    digits = text[begin : begin + 20].partition(b",")[0].partition(b"}")[0].strip()
    return int(digits) if digits.isdigit() else 0
