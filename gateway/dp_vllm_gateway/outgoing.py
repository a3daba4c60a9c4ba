"""A request as the gateway sends it on."""

import msgspec

from dp_vllm.engine.routes import Route
from dp_vllm_gateway.facts import Facts


class Outgoing(msgspec.Struct, frozen=True, gc=False):
    """A request as it is sent to whichever endpoint: everything but the Host line."""

    method: str
    target: str
    """Path and query."""
    route: Route
    lines: bytes
    """Header lines, with the id and whatever key the engine is to see."""
    body: bytes
    facts: Facts
    priority: int
    """Lower goes first of one key's requests, if it has to wait."""
    rank: int
    """Lower goes first of all keys' requests."""
    answer_lines: bytes
    """Header lines that the client is sent besides the engine's."""

    def bytes_for(self, host: bytes) -> bytes:
        """The request on the wire."""
        head = b"%b %b HTTP/1.1\r\nhost: %b\r\n%bcontent-length: %d\r\n\r\n"
        target = self.target.encode("utf-8", "surrogateescape")
        return head % (self.method.encode(), target, host, self.lines, len(self.body)) + self.body
