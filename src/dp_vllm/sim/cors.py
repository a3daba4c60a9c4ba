"""Headers for browsers, as Starlette's CORSMiddleware adds them for vLLM."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from aiohttp import web

_METHODS: Final = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY")
_SAFE_HEADERS: Final = {"Accept", "Accept-Language", "Content-Language", "Content-Type"}
_PREFLIGHT_VARIES: Final = (
    "Origin, Access-Control-Request-Method, Access-Control-Request-Headers, Access-Control-Request-Private-Network"
)
_SECONDS: Final = "600"


@dataclass(frozen=True, slots=True)
class Cors:
    """Which pages may read answers: vLLM's flags `--allowed-...`."""

    origins: tuple[str, ...] = ()
    methods: tuple[str, ...] = ("*",)
    headers: tuple[str, ...] = ("*",)
    credentials: bool = False

    def of_answer(self, origin: str | None) -> dict[str, str]:
        """What is added to any answer. As in vLLM `vary` is there without an origin too."""
        added = {}
        if origin is not None and "*" in self.origins:
            added["access-control-allow-origin"] = origin if self.credentials else "*"
        elif origin is not None and origin in self.origins:
            added["access-control-allow-origin"] = origin
        if origin is not None and self.credentials:
            added["access-control-allow-credentials"] = "true"
        return added | {"vary": "Origin"}

    def preflight(self, method: str, request: Mapping[str, str]) -> web.Response | None:
        """The answer to a browser's question, if this is one; 400 says what is not allowed."""
        origin, wanted = request.get("Origin"), request.get("Access-Control-Request-Method")
        if method != "OPTIONS" or origin is None or wanted is None:
            return None
        answer = {"vary": _PREFLIGHT_VARIES, **self._origin(origin)}
        methods = _METHODS if "*" in self.methods else self.methods
        answer |= {"access-control-allow-methods": ", ".join(methods), "access-control-max-age": _SECONDS}
        failures = [] if self._allows(origin) else ["origin"]
        if wanted not in methods:
            failures.append("method")
        names = request.get("Access-Control-Request-Headers")
        if "*" not in self.headers:
            allowed = sorted(_SAFE_HEADERS | set(self.headers))
            answer["access-control-allow-headers"] = ", ".join(allowed)
            known = {name.lower() for name in allowed}
            if names is not None and any(name.strip().lower() not in known for name in names.split(",")):
                failures.append("headers")
        elif names is not None:
            answer["access-control-allow-headers"] = names
        if self.credentials:
            answer["access-control-allow-credentials"] = "true"
        if "Access-Control-Request-Private-Network" in request:
            failures.append("private-network")
        text = "Disallowed CORS " + ", ".join(failures) if failures else "OK"
        return web.Response(text=text, status=400 if failures else 200, headers=answer)

    def _allows(self, origin: str) -> bool:
        return "*" in self.origins or origin in self.origins

    def _origin(self, origin: str) -> dict[str, str]:
        if "*" in self.origins and not self.credentials:
            return {"access-control-allow-origin": "*"}
        return {"access-control-allow-origin": origin} if self._allows(origin) else {}
