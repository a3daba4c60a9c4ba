"""`python -I -m dp_vllm.sim MODEL [flags]`: one simulated engine, from its command line to its exit."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence

from aiohttp import web

from dp_vllm.errors import DpVllmError
from dp_vllm.sim import listen, loading, options
from dp_vllm.sim.app import FINGERPRINT, VLLM_VERSION, App
from dp_vllm.sim.engine import Engine
from dp_vllm.sim.lifecycle import Lifecycle
from dp_vllm.sim.options import Options
from dp_vllm.sim.server import Server
from dp_vllm.sim.steps import Steps

_log = logging.getLogger("dp_vllm.sim")
_MAX_BODY_BYTES = 256 * 1024 * 1024


def main(argv: Sequence[str]) -> int:
    """Serve until a signal ends it; the exit status."""
    logging.basicConfig(format="%(levelname)s %(asctime)s %(message)s", datefmt="%m-%d %H:%M:%S", stream=sys.stdout)
    logging.getLogger("dp_vllm.sim").setLevel(logging.INFO)
    try:
        given = options.parse(argv, os.environ)
        listener = listen.bind(given.listen)
    except DpVllmError as error:
        print(f"dp-vllm sim: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_status
    _log.info("%s: vLLM %s is simulated, no model is run", FINGERPRINT, VLLM_VERSION)
    _run(given, listener)
    return 0


def _run(given: Options, listener: socket.socket) -> None:
    try:
        import uvloop
    except ImportError:
        asyncio.run(_serve(given, listener))
    else:
        uvloop.run(_serve(given, listener))


async def _serve(given: Options, listener: socket.socket) -> None:
    engine = Engine(given.limits, given.pace)
    app = App(given, engine, Steps(engine), dict(given.adapters))
    server = Server(app)
    http: asyncio.Server | None = None

    def close_listener() -> None:
        if http is not None:
            http.close()

    life = Lifecycle(app, server, close_listener)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, life.on_signal)
    async with asyncio.TaskGroup() as group:
        ending = group.create_task(life.wait_for_signal())
        load = group.create_task(loading.load(given))
        await asyncio.wait((ending, load), return_when=asyncio.FIRST_COMPLETED)
        if not load.done():
            load.cancel()
            return
        life.loading = False
        stepping = group.create_task(app.steps.run())
        http = await listen.serve(listener, _protocol(server, given))
        _log.info("Application startup complete.")
        _log.info("Uvicorn running on %s", listen.describe(given.listen))
        await ending
        await life.end()
        stepping.cancel()


def _protocol(server: Server, given: Options) -> web.Server:
    loop = asyncio.get_running_loop()

    def request(message, payload, protocol, writer, task) -> web.BaseRequest:  # type: ignore[no-untyped-def]
        return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=_MAX_BODY_BYTES)

    return web.Server(
        server.handle,
        request_factory=request,
        access_log=None,
        handler_cancellation=True,
        keepalive_timeout=given.api.idle_seconds,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
