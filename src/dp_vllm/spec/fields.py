"""Kinds of fields that several parts of a DPModel have. Text comes with words that say what it may be."""

from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

ALLOWED: Final = "x-allowed"
"""In a schema: what a text must be, in words."""


def text(pattern: str, allowed: str, max_length: int) -> Meta:
    r"""Text that matches `pattern`, from `^` to `\Z`; `allowed` says so to people, after "it must be"."""
    return Meta(pattern=pattern, max_length=max_length, extra_json_schema={ALLOWED: allowed})


Seconds = Annotated[int, Meta(ge=0, le=86_400)]
Name = Annotated[
    str,
    text(r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?\Z", "the name of an object: small letters, digits, dashes and dots", 253),
]
KeyName = Annotated[str, text(r"^[-._a-zA-Z0-9]+\Z", "a key: letters, digits, dashes, dots and underscores", 253)]
ModelName = Annotated[
    str,
    text(
        r"^[^\x00-\x20\x7f.~-][^\x00-\x20\x7f]*\Z",
        "a name as Qwen/Qwen3-8B or an absolute path, without blanks, and no dash, dot or tilde first",
        512,
    ),
]
ServedName = Annotated[
    str, text(r"^[^\x00-\x20\x7f-][^\x00-\x20\x7f]*\Z", "a name without blanks, and no dash first", 512)
]
Image = Annotated[
    str, text(r"^[a-zA-Z0-9][-._:/@a-zA-Z0-9]*\Z", "the name of an image, as vllm/vllm-openai:v0.32.0", 1024)
]
Bytes = Annotated[
    str, text(r"^[0-9]*[1-9][0-9]*(\.[0-9]+)?([kMGTPE]|[KMGTPE]i)?\Z", "a number of bytes from 1 on, as 200Gi", 32)
]
Amount = (
    Annotated[int, Meta(ge=0, le=2**53)]
    | Annotated[str, text(r"^[0-9]+(\.[0-9]+)?([mkMGTPE]|[KMGTPE]i)?\Z", "an amount, as 4, 500m or 64Gi", 32)]
)
Amounts = Annotated[dict[str, Amount], Meta(max_length=32)]


def listed_by(*keys: str) -> dict[str, Any]:
    """For a list whose items may have several owners, who tell them apart by these fields."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": list(keys)}


ATOMIC: Final[dict[str, Any]] = {"x-kubernetes-list-type": "atomic"}
"""For a list that has one owner as a whole."""


class Part(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A part of a DPModel. A field that is UNSET was left out."""
