"""What a DPModel may be called: other objects, and the replicas of a run, have its name and more. Pure."""

import re
from typing import Final

LONGEST: Final = 40
"""The objects made for a DPModel have its name and more, and no label may be longer than 63."""

PATTERN: Final = "^[a-z]([-a-z0-9]*[a-z0-9])?$"

MUST: Final = (
    f"metadata.name must have at most {LONGEST} small letters, digits and dashes, a letter first and no dash last, as "
    "the name of a Service; what clients call the model is spec.servedModelName"
)


def fits(name: object) -> bool:
    """Whether a DPModel may have this name."""
    return isinstance(name, str) and len(name) <= LONGEST and re.fullmatch(PATTERN[1:-1], name) is not None


def made_of(text: str) -> str:
    """A name that is like the text: `qwen3-8b` for `Qwen/Qwen3-8B`."""
    words = re.findall(r"[a-z0-9]+", text.rstrip("/").rpartition("/")[2].lower())
    name = "-".join(words).lstrip("-0123456789")[:LONGEST].rstrip("-")
    return name or "model"
