"""Reads a request's body whole, within limits, before anything is decided: only then can it be sent again."""

import asyncio
from typing import Final

from aiohttp import StreamReader, web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_exceptions import HTTPException

from dp_vllm_gateway.config import Limits
from dp_vllm_gateway.replies import Refusal, unavailable

MIN_BYTES_PER_SECOND: Final = 1000
"""A body may fall behind this rate by `body_idle_seconds`, and never gets further ahead of it than that."""


class Bodies:
    """Counts the bytes of all bodies that are held."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.held_bytes = 0

    def judge_length(self, length: int) -> None:
        """Refuse a body by what its Content-Length announces."""
        if length > self._limits.max_body_bytes:
            raise Refusal(413, f"the body has {length} bytes; at most {self._limits.max_body_bytes} are taken")
        if self.held_bytes + length > self._limits.max_buffered_bytes:
            raise unavailable(
                503,
                f"the gateway holds {self.held_bytes} bytes of other requests and has no room for this one",
                retry_after_seconds=5,
                code="gateway_memory",
            )

    async def read(self, content: StreamReader) -> bytes:
        """The whole body. Raises Refusal: 408 if it stops or trickles, 413 and 503 if it is too much, 400 if it is cut.

        Its bytes count as held until `release`.
        """
        pieces: list[bytes] = []
        size = 0
        now = asyncio.get_running_loop().time
        idle_seconds = self._limits.body_idle_seconds
        end = now() + idle_seconds
        try:
            while piece := await self._piece(content, end):
                pieces.append(piece)
                size += len(piece)
                self.held_bytes += len(piece)
                self._judge_size(size)
                end = min(end + len(piece) / MIN_BYTES_PER_SECOND, now() + idle_seconds)
        except BaseException:
            self.held_bytes -= size
            raise
        return b"".join(pieces)

    def hold(self, body: bytes) -> bytes:
        """A body that came together with its head, and counts likewise."""
        self.held_bytes += len(body)
        return body

    def release(self, body: bytes) -> None:
        """A body is no longer held."""
        self.held_bytes -= len(body)

    def _judge_size(self, size: int) -> None:
        if size > self._limits.max_body_bytes:
            raise Refusal(413, f"the body has more than {self._limits.max_body_bytes} bytes")
        self.judge_length(0)

    async def _piece(self, content: StreamReader, end: float) -> bytes:
        try:
            async with asyncio.timeout_at(end):
                return await content.readany()
        except TimeoutError:
            seconds = f"{self._limits.body_idle_seconds:g} s"
            message = f"the body stopped or was slower than {MIN_BYTES_PER_SECOND} bytes a second for {seconds}"
            raise Refusal(408, message) from None
        except (HttpProcessingError, HTTPException, web.RequestPayloadError) as error:
            raise Refusal(400, f"the body cannot be read: {error}") from error
