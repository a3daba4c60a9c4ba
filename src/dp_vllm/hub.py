"""What the Hugging Face hub says of a model, within a time limit: is it there, may we have it, how large is it."""

import http.client
import json
import queue
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from dp_vllm.engine.hub import home

LIMIT_SECONDS: Final = 10.0
"""How long the hub may take in all, looking up its name included."""
_READ_SECONDS: Final = 5.0
_MOST_BYTES: Final = 16 * 2**20
_ON: Final = ("1", "on", "true", "yes")

_Said = TypeVar("_Said")


@dataclass(frozen=True, slots=True)
class Answer:
    """What was learned."""

    silence: str = ""
    """Why nothing was: offline, no network."""
    refused: int = 0
    """The status with which the hub refused the model's files; 0 if it gives them."""
    absent: bool = False
    """There is no such model, or none that this token may see."""
    files: Mapping[str, int] = field(default_factory=dict)
    """Sizes in bytes."""
    config: Any = None
    """What is in config.json; None if that is not known."""


def ask(model: str, revision: str, environ: Mapping[str, str], limit_seconds: float = LIMIT_SECONDS) -> Answer:
    """Ask the hub. Takes up to the limit, and never fails."""
    if environ.get("HF_HUB_OFFLINE", "").lower() in _ON or environ.get("TRANSFORMERS_OFFLINE", "").lower() in _ON:
        return Answer("HF_HUB_OFFLINE is set")
    if environ.get("VLLM_USE_MODELSCOPE", "").lower() in _ON:
        return Answer("VLLM_USE_MODELSCOPE is set, and that hub is not asked")
    answer = _within(limit_seconds, lambda: _asked(model, revision, environ))
    return answer or Answer(f"{_home(environ)} did not answer within {limit_seconds:g} s")


def commit(model: str, revision: str, environ: Mapping[str, str], limit_seconds: float) -> str:
    """The commit that a revision of a model is now; empty if the hub does not say. Takes up to the limit."""
    return _within(limit_seconds, lambda: _commit(model, revision, environ)) or ""


def token(environ: Mapping[str, str]) -> str:
    """As huggingface_hub finds it; empty if there is none."""
    for variable in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if given := environ.get(variable, "").strip():
            return given
    path = Path(environ.get("HF_TOKEN_PATH") or home(environ) / "token")
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _home(environ: Mapping[str, str]) -> str:
    return environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def _within(limit_seconds: float, ask: Callable[[], _Said]) -> _Said | None:
    """What is answered; None if that takes too long."""
    answers: queue.SimpleQueue[_Said] = queue.SimpleQueue()
    asking = threading.Thread(target=lambda: answers.put(ask()), daemon=True)
    asking.start()  # a name server that is silent cannot be told to hurry
    try:
        return answers.get(timeout=limit_seconds)
    except queue.Empty:
        return None


def _commit(model: str, revision: str, environ: Mapping[str, str]) -> str:
    try:
        said = _get(_about(model, revision, environ), _headers(environ))
    except (OSError, ValueError, http.client.HTTPException):
        return ""
    return str(said.get("sha") or "") if isinstance(said, dict) else ""


def _about(model: str, revision: str, environ: Mapping[str, str]) -> str:
    name, branch = urllib.parse.quote(model), urllib.parse.quote(revision or "main", safe="")
    return f"{_home(environ)}/api/models/{name}/revision/{branch}"


def _headers(environ: Mapping[str, str]) -> dict[str, str]:
    headers = {"User-Agent": "dp-vllm"}
    if given := token(environ):
        headers["Authorization"] = f"Bearer {given}"
    return headers


def _asked(model: str, revision: str, environ: Mapping[str, str]) -> Answer:
    name, branch = urllib.parse.quote(model), urllib.parse.quote(revision or "main", safe="")
    headers = _headers(environ)
    try:
        said = _get(f"{_about(model, revision, environ)}?blobs=true", headers)
    except urllib.error.HTTPError as error:
        if error.code in (401, 403, 404):
            return Answer(absent=True, refused=error.code)
        return Answer(f"{_home(environ)} answers {error.code}")
    except (OSError, ValueError, http.client.HTTPException) as error:
        return Answer(f"{_home(environ)} cannot be reached ({getattr(error, 'reason', None) or error})")
    listed = said.get("siblings", []) if isinstance(said, dict) else []
    files = {str(one.get("rfilename")): _size(one.get("size")) for one in listed if isinstance(one, dict)}
    try:
        config = _get(f"{_home(environ)}/{name}/resolve/{branch}/config.json", headers)
    except urllib.error.HTTPError as error:
        return Answer(files=files, refused=error.code if error.code in (401, 403) else 0)
    except (OSError, ValueError, http.client.HTTPException):
        return Answer(files=files)
    return Answer(files=files, config=config)


def _get(url: str, headers: Mapping[str, str]) -> Any:
    request = urllib.request.Request(url, headers=dict(headers))  # noqa: S310 - the hub that HF_ENDPOINT names
    with urllib.request.urlopen(request, timeout=_READ_SECONDS) as response:  # noqa: S310
        return json.loads(response.read(_MOST_BYTES))


def _size(stated: Any) -> int:
    """Bytes of a file; 0 if the hub does not say."""
    return stated if isinstance(stated, int) and stated > 0 else 0
