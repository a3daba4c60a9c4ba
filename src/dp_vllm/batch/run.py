"""Runs a batch: so many requests at once, each until it has an answer, each answer into the file at once."""

import asyncio
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from dp_vllm import names
from dp_vllm.batch import again
from dp_vllm.batch.again import Failed
from dp_vllm.batch.answers import Answers, Error, Response, answer
from dp_vllm.batch.endpoint import Client
from dp_vllm.batch.progress import Standing
from dp_vllm.batch.requests import Request
from dp_vllm.errors import UserError

TELL_SECONDS = 0.25
_NO_ENTRY = (401, 403)
_OFTEN = 2
"""While it begins it is looked at as often as after so many attempts."""


@dataclass(slots=True)
class Run:
    """One batch that is asked. `rest` are the requests that have no answer yet."""

    client: Client
    answers: Answers
    rest: Iterator[Request]
    total: int
    tell: Callable[[Standing], None]
    retry_seconds: float
    """How long a request is tried again, and how long the endpoint may answer nothing at all."""
    rng: random.Random = field(default_factory=random.Random)
    _heard_at: float = field(default_factory=time.monotonic)
    """When the endpoint last answered something that was kept."""
    _waiting: str = ""

    async def all(self, at_once: int, begin_seconds: float) -> None:
        """Return when everything is answered. Raises UserError if the endpoint does not answer (any more)."""
        async with asyncio.TaskGroup() as group:
            teller = group.create_task(self._tell())
            try:
                await self._begin(begin_seconds)
                async with asyncio.TaskGroup() as workers:
                    for _ in range(at_once):
                        workers.create_task(self._work())
            finally:
                teller.cancel()

    async def _begin(self, seconds: float) -> None:
        """Wait for the endpoint alone, before hundreds of requests do."""
        end, attempt = time.monotonic() + seconds, 0
        while True:
            attempt += 1
            response, failed = await self.client.look()
            if response is not None and again.is_final(response.status_code):
                self._demand_entry(response)
                self._heard_at, self._waiting = time.monotonic(), ""
                return
            pause = again.pause_seconds(Failed(None), min(attempt, _OFTEN), self.rng)  # one look costs nothing
            if time.monotonic() + pause > end:
                raise UserError(
                    f"no endpoint answers ({failed.reason}); start one with dp-vllm serve, name it with --base-url, "
                    "or give -- MODEL to have one for this batch"
                )
            self._waiting = f"waiting: {failed.reason}"
            await asyncio.sleep(pause)

    async def _work(self) -> None:
        for request in self.rest:  # shared: each takes the next
            await self._settle(request)

    async def _tell(self) -> None:
        while True:
            self.tell(Standing(len(self.answers.done), self.total, self.answers.failed, self._waiting))
            await asyncio.sleep(TELL_SECONDS)

    async def _settle(self, request: Request) -> None:
        began, attempt = time.monotonic(), 0
        while True:
            attempt += 1
            response, failed = await self.client.ask(request)
            if response is not None and again.is_final(response.status_code, failed.should_retry):
                self._demand_entry(response)
                self._heard_at, self._waiting = time.monotonic(), ""
                self.answers.add(answer(request.custom_id, response))
                return
            self._waiting = f"waiting: {failed.reason}"
            pause = again.pause_seconds(failed, attempt, self.rng)
            if time.monotonic() + pause > began + self.retry_seconds:
                self._give_up(request, response, failed.reason, began)
                return
            await asyncio.sleep(pause)

    def _demand_entry(self, response: Response) -> None:
        if response.status_code in _NO_ENTRY:
            raise UserError(
                f"the endpoint refuses the key (status {response.status_code}): give --api-key KEY, or set "
                f"{names.API_KEY_VARIABLE}; what was answered before is kept"
            )

    def _give_up(self, request: Request, response: Response | None, reason: str, began: float) -> None:
        if self._heard_at <= began:
            raise UserError(
                f"the endpoint has answered nothing for {self.retry_seconds:g} s ({reason}); "
                "the same command goes on where it stands"
            )
        error = Error("retries_exhausted", f"no answer within {self.retry_seconds:g} s: {reason}")
        self.answers.add(answer(request.custom_id, response, error))
