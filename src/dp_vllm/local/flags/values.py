"""What the values of the endpoint's flags may be: one function a kind, from the word as typed to the typed value.

Each raises ValueError with what is allowed; the caller knows the flag and adds its name and the value.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Final

from dp_vllm import hosts
from dp_vllm.spec import MOST_REPLICAS
from dp_vllm.topology import given

MOST: Final = 1 << 53
"""The largest count of anything: larger ones are no exact numbers everywhere that they go."""

_DIGITS: Final = 20
"""Python reads no number of more than 4,300 digits."""


def count(text: str) -> int:
    return _from_1(text, MOST)


def replicas(text: str) -> int:
    return _from_1(text, MOST_REPLICAS)


def _from_1(text: str, most: int) -> int:
    if not text.isascii() or not text.isdigit() or not text.strip("0"):
        raise ValueError("allowed are whole numbers from 1 on")
    if len(text) > _DIGITS or int(text) > most:
        raise ValueError(f"at most {most:,} are allowed")
    return int(text)


def port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > _DIGITS or not 1 <= int(text) <= 65535:
        raise ValueError("allowed are ports from 1 to 65535")
    return int(text)


def seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 86_400:
        raise ValueError("allowed are seconds from 0 to 86400")
    return value


def some_seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 86_400:
        raise ValueError("allowed are seconds above 0, at most 86400")
    return value


def weight(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1000:
        raise ValueError("allowed are numbers from 0 to 1000")
    return value


def one_of(*allowed: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in allowed:
            raise ValueError(f"allowed are {', '.join(allowed)}")
        return text

    return read


def engine(text: str) -> str:
    if text not in ("vllm", "sim") and "/" not in text:
        raise ValueError("allowed are vllm, sim, and the path of another vLLM's executable, like /opt/venv/bin/vllm")
    return text


def path(text: str) -> Path:
    if not text:
        raise ValueError("a path is needed")
    return Path(text)


def host(text: str) -> str:
    return hosts.read(text)


def root_path(text: str) -> str:
    if text and not text.startswith("/"):
        raise ValueError("it begins with /")
    return text


def json_list(text: str) -> str:
    """The text itself, once it is known to hold a JSON list of strings."""
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise ValueError("a JSON list of strings is needed, like '[\"https://example.org\"]'")
    return text


def devices(text: str) -> tuple[str, ...]:
    """GPU indexes or UUIDs, separated by commas, each once."""
    ids = tuple(one.strip() for one in text.split(","))
    if not all(ids) or len({one.isdigit() for one in ids}) > 1:
        raise ValueError("allowed are GPU indexes like 2,3, or UUIDs like GPU-5f0c1a52,GPU-77d1b0c4")
    if len(set(ids)) < len(ids):
        raise ValueError("each GPU may be named once")
    return ids


def gpu_groups(text: str) -> given.Groups:
    """The GPUs of each replica: `0,1;2,3`."""
    return given.read(text)
