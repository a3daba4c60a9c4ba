"""Reads a request's body whole, within limits, before anything is decided: only then can it be sent again."""

import asyncio
from typing import Final

from aiohttp import StreamReader, web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_exceptions import HTTPException

from dp_vllm_gateway.config import Limits
from dp_vllm_gateway.replies import Refusal, unavailable
from dp_vllm_gateway.shares import may_take

MIN_BYTES_PER_SECOND: Final = 1000
"""A body may fall behind this rate by `body_idle_seconds`, and never gets further ahead of it than that."""


class Bodies:
    """Counts the bytes of all bodies that are held."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._by_key: dict[str, int] = {}
        """Of `held_bytes`, where there are API keys."""
        self.held_bytes = 0

    def judge_length(self, length: int, key: str) -> None:
        """Refuse a body by what its Content-Length announces, and by what else its API key has here."""
        if length > self._limits.max_body_bytes:
            raise Refusal(413, f"the body has {length} bytes; at most {self._limits.max_body_bytes} are taken")
        if self.held_bytes + length > self._limits.max_buffered_bytes:
            raise unavailable(
                503,
                f"the gateway holds {self.held_bytes} bytes of other requests and has no room for this one",
                retry_after_seconds=5,
                code="gateway_memory",
            )
        if key and not may_take(length, self._by_key.get(key, 0), self.held_bytes, self._limits.max_buffered_bytes):
            raise self._share_taken(key)

    def _within_share(self, size: int, key: str) -> bool:
        """Whether a key may have so many bytes, which are held already."""
        own, others = self._by_key.get(key, 0) - size, self.held_bytes - size
        return not key or may_take(size, own, others, self._limits.max_buffered_bytes)

    def has_room(self, size: int, key: str) -> bool:
        """Whether so many bytes, which are held already, are within all limits."""
        return self.held_bytes <= self._limits.max_buffered_bytes and self._within_share(size, key)

    def _share_taken(self, key: str) -> Refusal:
        message = f"the gateway holds {self._by_key.get(key, 0)} bytes of requests of this API key, which is its share"
        return unavailable(503, message, retry_after_seconds=5, code="gateway_memory")

    def take(self, size: int, key: str) -> None:
        """Hold so many bytes more."""
        self.held_bytes += size
        if key:
            self._by_key[key] = self._by_key.get(key, 0) + size

    def give_back(self, size: int, key: str) -> None:
        """Hold so many bytes less."""
        self.held_bytes -= size
        if key:
            left = self._by_key.get(key, 0) - size
            if left:
                self._by_key[key] = left
            else:
                self._by_key.pop(key, None)

    async def read(self, content: StreamReader, key: str) -> bytes:
        """The whole body. Raises Refusal: 408 if it stops or trickles, 413 and 503 if it is too much, 400 if it is cut.

        Its bytes count as held until `give_back`.
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
                self.take(len(piece), key)
                self._judge_size(size, key)
                end = min(end + len(piece) / MIN_BYTES_PER_SECOND, now() + idle_seconds)
        except BaseException:
            self.give_back(size, key)
            raise
        return b"".join(pieces)

    def _judge_size(self, size: int, key: str) -> None:
        if size > self._limits.max_body_bytes:
            raise Refusal(413, f"the body has more than {self._limits.max_body_bytes} bytes")
        self.judge_length(0, "")
        if not self._within_share(size, key):
            raise self._share_taken(key)

    async def _piece(self, content: StreamReader, end: float) -> bytes:
        try:
            async with asyncio.timeout_at(end):
                return await content.readany()
        except TimeoutError:
            seconds = f"{self._limits.body_idle_seconds:g} s"
            message = f"the body stopped or was slower than {MIN_BYTES_PER_SECOND} bytes a second for {seconds}"
            raise Refusal(408, message) from None
        except (HttpProcessingError, HTTPException, web.RequestPayloadError) as error:
            raise Refusal(400, "the body cannot be read: it was cut, or is not framed as HTTP/1.1 requires") from error
