"""A request's place at an endpoint. What the endpoint has in flight is counted by it, and never by anybody else."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Final

from dp_vllm import names
from dp_vllm_gateway.facts import Facts
from dp_vllm_gateway.member import Member, Prefill

if TYPE_CHECKING:
    from dp_vllm_gateway.pool import Pool

_REASON: Final = f"{names.REASON_HEADER}: ".encode()


class Lease:
    """A request's place at an endpoint, from before it is sent to its last byte."""

    __slots__ = ("_facts", "_pool", "_prefill", "_tokens", "member", "reason")

    def __init__(self, pool: Pool, member: Member, facts: Facts, reason: str, cached_tokens: int) -> None:
        self._pool = pool
        self._facts = facts
        self._tokens = facts.tokens - cached_tokens if cached_tokens < facts.tokens else 0
        self.member = member
        self.reason = reason
        """Why it is this endpoint."""
        self._prefill: Prefill | None = None

    def __enter__(self) -> Lease:
        if self._prefill is None:
            self.begin()
        return self

    def begin(self) -> None:
        """Count from now on, before the request itself can: it waited, and does not know yet that it may go.

        If anything here fails, nothing is counted.
        """
        member, facts = self.member, self._facts
        self._prefill = self._pool.begin_prefill(member, self._tokens, stream=facts.stream)
        member.requests += 1
        member.sequences += facts.sequences
        try:
            if facts.blocks:
                member.remembered.add(facts.blocks)
            self._pool.begun(member, facts.blocks, self._tokens)
        except BaseException:
            self.end()
            raise

    def answering(self) -> None:
        """The first body byte came: the prompt has been read."""
        prefill = self._prefill
        if prefill is not None and prefill.alone_since:
            self._pool.read_alone(self.member, prefill)
        self._read()
        self._pool.less_in_flight()

    def answer_lines(self) -> bytes:
        """The header lines that tell a client who answers it, and why."""
        return b"%b%b%b\r\n" % (self.member.answer_line, _REASON, self.reason.encode())

    def _read(self) -> None:
        prefill = self._prefill
        assert prefill is not None
        self.member.waiting_tokens -= prefill.tokens
        prefill.tokens = 0

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def end(self) -> None:
        """Count no longer."""
        self._read()
        self.member.requests -= 1
        self.member.sequences -= self._facts.sequences
        self._pool.left()
