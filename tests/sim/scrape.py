"""Reads an engine's metrics."""

from collections.abc import Mapping
from typing import TypeAlias

from prometheus_client.parser import text_string_to_metric_families
from wire import ask

Samples: TypeAlias = Mapping[tuple[str, frozenset[tuple[str, str]]], float]


def samples(url: str) -> Samples:
    """All values by name and labels."""
    text = ask(url, "GET", "/metrics").body.decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def one(found: Samples, name: str, labels: Mapping[str, str]) -> float | None:
    """The sample of this name that has these labels, among others."""
    values = [value for (other, own), value in found.items() if other == name and labels.items() <= dict(own).items()]
    assert len(values) <= 1, f"{name} {labels}: {values}"
    return values[0] if values else None


def metric(url: str, name: str, **labels: str) -> float:
    """A value as it is now."""
    value = one(samples(url), name, labels)
    assert value is not None, f"{name} {labels}"
    return value


class Growth:
    """How much values have grown since this was made."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._before = samples(url)

    def __call__(self, name: str, **labels: str) -> float:
        now = one(samples(self._url), name, labels)
        assert now is not None, f"{name} {labels}"
        return now - (one(self._before, name, labels) or 0.0)
