"""A program that does nothing but compete for the Lease in a namespace, and says when it holds it.

Each line is an event with the time of a clock that all processes of the machine share. SIGTERM ends it in good order.
"""

import asyncio
import json
import logging
import os
import signal
import sys
import time
from typing import NoReturn

from dp_vllm import kubernetes_api
from dp_vllm_operator import lease

TERMS = lease.Terms(duration_seconds=5, renew_deadline_seconds=3.5, retry_seconds=0.4)


async def main(namespace: str, identity: str) -> None:
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    async with kubernetes_api.connect() as api:
        say("started")
        async with lease.hold(api, [namespace], identity, terms=TERMS) as lost:
            say("held")
            ending = asyncio.create_task(end_when(lost))
            await stopped.wait()
            ending.cancel()
            say("ended")
        say("released")


async def end_when(lost: asyncio.Event) -> NoReturn:
    await lost.wait()
    say("lost")
    os._exit(3)


def say(event: str) -> None:
    print(json.dumps({"event": event, "at": time.monotonic()}), flush=True)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    asyncio.run(main(sys.argv[1], sys.argv[2]))
