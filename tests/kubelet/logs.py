"""The logs of containers that never ran, where the API server asks for them: at their node's port."""

import contextlib
import fnmatch
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web

Pattern = str


@dataclass(slots=True)
class Logs:
    """What is said of containers; what was said last holds."""

    _said: list[tuple[Pattern, str, str]] = field(default_factory=list)

    def say(self, pattern: Pattern, now: str, previous: str) -> None:
        """The logs of pods by this name: of the containers that are, and of those before their last restart."""
        self._said.append((pattern, now, previous))

    def of(self, pod: str, *, previous: bool) -> str:
        said = (before if previous else now for p, now, before in reversed(self._said) if fnmatch.fnmatchcase(pod, p))
        return next(said, "")

    @contextlib.asynccontextmanager
    async def served(self, certificate: Path, key: Path) -> AsyncIterator[int]:
        """Serve them as kubelets do; the port."""
        app = web.Application()
        app.router.add_get("/containerLogs/{namespace}/{pod}/{container}", self._answer)
        runner = web.AppRunner(app)
        await runner.setup()
        try:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(certificate, key)
            await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
            yield runner.addresses[0][1]
        finally:
            assert runner.server
            for connection in runner.server.connections:  # in order, TLS would wait for the API server's answer
                if connection.transport is not None:
                    connection.transport.abort()
            await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        text = self.of(request.match_info["pod"], previous=request.query.get("previous") == "true")
        lines = text.splitlines(keepends=True)
        if tail := request.query.get("tailLines"):
            lines = lines[-int(tail) :] if int(tail) else []
        content = "".join(lines).encode()
        if limit := request.query.get("limitBytes"):
            content = content[: int(limit)]
        return web.Response(body=content, content_type="text/plain")
