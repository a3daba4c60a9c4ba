"""Clients that send chats without pause, and keep exactly what each of them was answered."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from deployments import MODEL

TOKENS = 30
PROMPT = "word " * 300


@dataclass(slots=True)
class Chat:
    """One request and what came back."""

    stream: bool
    status: int = 0
    replica: str = ""
    events: list[Any] = field(default_factory=list)
    """The data of each event of a stream, or the one body."""
    broken: str = ""
    """How the connection ended, if not in order."""

    @property
    def is_whole(self) -> bool:
        if self.status != 200 or self.broken:
            return False
        if not self.stream:
            return bool(self.events[0]["usage"]["completion_tokens"] == TOKENS)
        return self.events[-1] == "[DONE]" and len(self._texts) == TOKENS

    @property
    def is_cut_in_order(self) -> bool:
        """Text came, then an error event was the last, and nothing said that the answer is complete."""
        return (
            self.stream
            and self.status == 200
            and not self.broken
            and len(self._texts) > 0
            and "error" in self.events[-1]
            and "[DONE]" not in self.events
        )

    @property
    def _texts(self) -> list[str]:
        deltas = (
            event["choices"][0]["delta"] for event in self.events if isinstance(event, dict) and "choices" in event
        )
        return [delta["content"] for delta in deltas if delta.get("content")]


class Load:
    """What `clients` concurrent clients are doing."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self._url = url + "/v1/chat/completions"
        self._session = session
        self.chats: list[Chat] = []
        """Those that have ended."""
        self._stopped = asyncio.Event()

    async def client(self, number: int) -> None:
        """Send one chat after the other until the load is stopped."""
        while not self._stopped.is_set():
            chat = Chat(stream=number % 2 == 0)
            await self._send(chat, number)
            self.chats.append(chat)

    def stop(self) -> None:
        """Let each client finish the chat it is at."""
        self._stopped.set()

    async def until(self, count: int) -> None:
        """Wait until `count` more chats have ended."""
        target = len(self.chats) + count
        while len(self.chats) < target:
            await asyncio.sleep(0.02)

    async def _send(self, chat: Chat, number: int) -> None:
        body = {
            "model": MODEL,
            "messages": [{"role": "user", "content": f"{number} {len(self.chats)} {PROMPT}"}],
            "max_tokens": TOKENS,
            "stream": chat.stream,
        }
        try:
            async with self._session.post(self._url, json=body) as answer:
                chat.status = answer.status
                chat.replica = answer.headers.get("x-dp-vllm-replica", "")
                if not chat.stream or answer.status != 200:
                    chat.events.append(await answer.json())
                    return
                async for line in answer.content:
                    data = line.decode().removeprefix("data: ").strip()
                    if data:
                        chat.events.append(data if data == "[DONE]" else json.loads(data))
        except aiohttp.ClientError as error:
            chat.broken = repr(error)


@contextlib.asynccontextmanager
async def load(url: str, clients: int) -> AsyncIterator[Load]:
    """Have `clients` clients send chats during the block, every other one streamed; each finishes its last one."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=50)) as session:
        made = Load(url, session)
        async with asyncio.TaskGroup() as tasks:
            for number in range(clients):
                tasks.create_task(made.client(number))
            try:
                yield made
            finally:
                made.stop()
