"""Reads an engine's metrics."""

from prometheus_client.parser import text_string_to_metric_families
from wire import ask


def metric(url: str, name: str, **labels: str) -> float:
    """The one sample of this name that has these labels, among others."""
    text = ask(url, "GET", "/metrics").body.decode()
    found = [
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]
    assert len(found) == 1, f"{name} {labels}: {found}"
    return found[0]
