"""The one table of the engine's routes: which replicas a request may go to, and what its answer looks like.

Read from vLLM 0.32's `/openapi.json` in its default, pooling and development modes; a test holds the table against the
real engine. A path that is not in the table goes to any replica, unless it ends like one that must not.
"""

import enum
import re
from dataclasses import dataclass
from typing import Final


class Reach(enum.Enum):
    """Which replicas a route concerns."""

    ONE = "any one replica"
    HOME = "the replica that made the thing"
    ALL = "every replica, answered with each result"
    MERGED = "every replica, answered as if they were one"
    NEVER = "refused: it would act on one replica of many, or on what the supervisor owns"


class Dialect(enum.Enum):
    """Whose words a route's streamed events use."""

    COMPLETIONS = "completions"
    """`data: {"choices": ...}`, ended by `data: [DONE]`; also chat."""
    RESPONSES = "responses"
    """OpenAI's Responses API: typed events, ended by `response.completed`."""
    MESSAGES = "messages"
    """Anthropic's Messages API: typed events, ended by `message_stop`."""
    OTHER = "other"
    """Nothing is known of the answer."""


@dataclass(frozen=True, slots=True)
class Route:
    """One row of the table."""

    method: str
    path: str
    """`{name}` stands for one path segment, `{name:path}` for one or more."""
    reach: Reach = Reach.ONE
    dialect: Dialect = Dialect.OTHER
    json_body: bool = False
    """The body is JSON, so a body that no JSON reader takes is refused."""
    replayable: bool = True
    """Sending it again does no harm: the request leaves nothing behind on the replica."""
    lasting: str = ""
    """What stays changed on the replica, to be repeated to one that restarts; `{field}` is taken from the body."""
    ends: str = ""
    """Which lasting change this route takes back."""
    forgets: bool = False
    """The prefix cache is empty after it."""
    common: bool = False
    """Every engine answers it alike, whatever its model is."""
    admin: bool = False
    """It changes the whole deployment, ends other clients' requests or reveals how engines are set up."""
    aborts: bool = False
    """It may abort requests that are under way."""


def _post(path: str, dialect: Dialect = Dialect.OTHER) -> Route:
    return Route("POST", path, dialect=dialect, json_body=True)


def _all(
    path: str,
    *,
    method: str = "POST",
    lasting: str = "",
    ends: str = "",
    forgets: bool = False,
    aborts: bool = False,
) -> Route:
    return Route(
        *(method, path, Reach.ALL),
        replayable=False,
        lasting=lasting,
        ends=ends,
        forgets=forgets,
        admin=True,
        aborts=aborts,
    )


def _never(path: str, method: str = "POST") -> Route:
    return Route(method, path, Reach.NEVER, replayable=False, admin=True)


UNKNOWN: Final = Route("", "", replayable=False)
"""What a path is that the table does not name: it goes to any replica, as it is."""

ROUTES: Final[tuple[Route, ...]] = (
    # generation
    _post("/v1/chat/completions", Dialect.COMPLETIONS),
    _post("/v1/chat/completions/batch", Dialect.COMPLETIONS),
    _post("/v1/completions", Dialect.COMPLETIONS),
    _post("/v1/responses", Dialect.RESPONSES),
    Route("GET", "/v1/responses/{id}", Reach.HOME, Dialect.RESPONSES, replayable=False),
    Route("POST", "/v1/responses/{id}/cancel", Reach.HOME, replayable=False),
    _post("/v1/messages", Dialect.MESSAGES),
    _post("/v1/messages/count_tokens"),
    _post("/invocations", Dialect.COMPLETIONS),
    _post("/inference/v1/generate"),
    _post("/generative_scoring"),
    _post("/v1/systemone"),
    _post("/cohere/v2/chat"),
    # text in, numbers out
    _post("/v1/embeddings"),
    _post("/v2/embed"),
    _post("/pooling"),
    _post("/classify"),
    _post("/score"),
    _post("/v1/score"),
    _post("/rerank"),
    _post("/v1/rerank"),
    _post("/v2/rerank"),
    _post("/tokenize"),
    _post("/detokenize"),
    Route("GET", "/tokenizer_info"),
    _post("/v1/chat/completions/render"),
    _post("/v1/completions/render"),
    _post("/v1/messages/render"),
    _post("/v1/responses/render"),
    _post("/v1/chat/completions/derender"),
    _post("/v1/completions/derender"),
    # audio (multipart, and a WebSocket)
    Route("POST", "/v1/audio/transcriptions", dialect=Dialect.COMPLETIONS),
    Route("POST", "/v1/audio/translations", dialect=Dialect.COMPLETIONS),
    Route("GET", "/v1/realtime", replayable=False),
    # about the server
    Route("GET", "/health", common=True),
    Route("GET", "/ping", common=True),
    Route("POST", "/ping", common=True),
    Route("GET", "/version", common=True),
    Route("GET", "/docs", common=True),
    Route("GET", "/docs/oauth2-redirect", common=True),
    Route("GET", "/redoc", common=True),
    Route("GET", "/v1/models", Reach.MERGED),
    Route("GET", "/v1/models/{model:path}", Reach.MERGED),  # OpenAI's; vLLM has none
    Route("GET", "/load", Reach.MERGED),
    Route("GET", "/metrics", Reach.MERGED),
    Route("GET", "/openapi.json", Reach.MERGED),
    _all("/kv_event_sources", method="GET"),
    _all("/server_info", method="GET"),
    _all("/weight_info", method="GET"),
    _all("/get_world_size", method="GET"),
    Route("GET", "/is_sleeping", Reach.ALL, replayable=False),
    Route("GET", "/is_paused", Reach.ALL, replayable=False),
    # changes of the whole deployment
    _all("/v1/load_lora_adapter", lasting="lora:{lora_name}"),
    _all("/v1/unload_lora_adapter", ends="lora:{lora_name}"),
    _all("/adapters", lasting="lora:{name}"),
    _all("/adapters/{name}", method="DELETE", ends="lora:{name}"),
    _all("/sleep", lasting="sleep", forgets=True, aborts=True),
    _all("/wake_up", ends="sleep"),
    _all("/pause", lasting="pause", aborts=True),
    _all("/resume", ends="pause"),
    _all("/start_profile", lasting="profile"),
    _all("/stop_profile", ends="profile"),
    _all("/reset_prefix_cache", forgets=True),
    _all("/reset_mm_cache"),
    _all("/reset_encoder_cache"),
    _all("/release_kv_cache_memory"),
    _all("/abort_requests", aborts=True),
    _all("/inference/v1/abort_requests", aborts=True),
    # never through the gateway
    _never("/scale_elastic_ep"),
    _never("/is_scaling_elastic_ep"),
    _never("/collective_rpc"),
    _never("/init_weight_transfer_engine"),
    _never("/start_weight_update"),
    _never("/start_draft_weight_update"),
    _never("/update_weights"),
    _never("/update_weight_version"),
    _never("/finish_weight_update"),
    _never("/weight_checker"),
    _never("/shutdown_weight_transfer_engine"),
    _never("/fault_tolerance/apply"),
    _never("/fault_tolerance/status", "GET"),
)

HIDDEN: Final = Route("", "", Reach.NEVER, replayable=False, admin=True)
"""What a path is that is not in the table, but that some engine could read as a route that concerns every replica."""

_EXACT: Final = {(route.method, route.path): route for route in ROUTES if "{" not in route.path}


def _pattern(path: str) -> re.Pattern[str]:
    segments = re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", path)
    return re.compile(re.sub(r"\{(\w+):path\}", r"(?P<\1>.+)", segments))


_PATTERNS: Final = tuple((route, _pattern(route.path)) for route in ROUTES if "{" in route.path)
_PATHS: Final = {route.path: route for route in ROUTES}
_ON_EVERY_REPLICA: Final = [
    re.sub(r"\{\w+\}", "[^/]+", route.path) for route in ROUTES if route.reach in (Reach.ALL, Reach.NEVER)
]
_ENDS_HIDDEN: Final = re.compile(f"(?:{'|'.join(_ON_EVERY_REPLICA)})/?$")
"""Also behind a prefix: an engine with a `--root-path` of its own takes that off."""
_PATH_PARAMETERS: Final = re.compile(";[^/]*")


def is_named(path: str) -> bool:
    """Whether the table has this path, for whichever method."""
    return path in _PATHS or any(pattern.fullmatch(path) for _, pattern in _PATTERNS)


def is_admin_path(path: str) -> bool:
    """Whether a route of this path, by whichever method, is one for administrators."""
    known = _PATHS.get(path)
    return known.admin if known else any(route.admin and pattern.fullmatch(path) for route, pattern in _PATTERNS)


def methods_of(path: str) -> list[str]:
    """The methods that the table has for this path."""
    exact = {method for method, known in _EXACT if known == path}
    return sorted(exact | {route.method for route, pattern in _PATTERNS if pattern.fullmatch(path)})


def route_of(method: str, path: str) -> Route:
    """The table's row for a request (`path` is decoded); `UNKNOWN` or `HIDDEN` if it has none. HEAD counts as GET."""
    if method == "HEAD":
        method = "GET"
    known = _EXACT.get((method, path))
    if known is not None:
        return known
    for route, pattern in _PATTERNS:
        if route.method == method and pattern.fullmatch(path):
            return route
    return _of_unnamed(path)


def _of_unnamed(path: str) -> Route:
    other = _PATHS.get(path)
    if other is not None:  # by another method
        return other if other.reach is Reach.NEVER else UNKNOWN
    return HIDDEN if _ENDS_HIDDEN.search(_PATH_PARAMETERS.sub("", path).lower()) else UNKNOWN


def parameter(route: Route, path: str) -> str:
    """The part of `path` that stands for the route's `{name}`; empty if the route has none."""
    for candidate, pattern in _PATTERNS:
        if candidate is route and (match := pattern.fullmatch(path)):
            return str(match.group(1))
    return ""
