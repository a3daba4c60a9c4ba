"""Pods as a real cluster told of them, with everything that can go wrong with one. See `operator/samples`."""

import json
from pathlib import Path
from typing import Any

from dp_vllm_operator.replica import Replica

_SAMPLES = Path(__file__).parent / "operator" / "samples"

NAMES = sorted(path.stem for path in (_SAMPLES / "pods").glob("*.json"))


def body(name: str) -> dict[str, Any]:
    """The pod's JSON."""
    read: dict[str, Any] = json.loads((_SAMPLES / "pods" / f"{name}.json").read_text())
    return read


def replica(name: str) -> Replica:
    return Replica.of(body(name))


def refusals() -> dict[str, tuple[int, str]]:
    """Status and message of API servers' answers to pods, by what was wrong with them."""
    read = json.loads((_SAMPLES / "refusals.json").read_text())
    return {name: (answer["status"], answer["message"]) for name, answer in read.items()}
