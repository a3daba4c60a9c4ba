"""The engines' own metrics as one text: every sample says which replica it is of.

A scrape is some 60 kB, and it is merged on the loop that carries the streams. So nothing is parsed into objects: a
family in good order is recognised by one pattern and labelled by replacing bytes. Only another one is looked at line by
line, and lines that are no samples are left out: one odd line would make Prometheus refuse the whole text.

The format is Prometheus' text, version 0.0.4. What OpenMetrics adds to it (units, exemplars, `# EOF`, further types) is
taken off. Timestamps are too: a sample is as old as the last look at its engine. Pure.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from dp_vllm_gateway.bounds import count_of

MOST_CACHE_TOKENS: Final = 1 << 27
"""An engine's KV cache is taken to hold no more: what is remembered of it is bounded by that."""

WANTED: Final = (b"vllm:", b"http_")
"""How the families begin that tell of the model and its server; what an engine says of its process stays its own."""

_TYPES: Final = frozenset({b"counter", b"gauge", b"histogram", b"summary"})

_NAME: Final = rb"[a-zA-Z_:][a-zA-Z0-9_:]*+"
_SUFFIX: Final = rb"_bucket|_sum|_count|_total|_created|_info"
"""What a sample's name may add to its family's."""
_VALUE: Final = rb"[-+]?+(?:[0-9]++\.?+[0-9]*+(?:[eE][-+]?+[0-9]++)?+|Inf|NaN)"
_LABEL: Final = rb'[a-zA-Z_][a-zA-Z0-9_]*+="[^"\\\n]*+(?:\\["\\n][^"\\\n]*+)*+"'
_PLAIN_LABEL: Final = rb'[a-zA-Z_][a-zA-Z0-9_]*+="[^"\\{\n]*+"'

_ORDERLY: Final = re.compile(
    rb"TYPE (?P<family>%b) (?P<type>.*+)(?P<samples>(?:\n(?P=family)(?:%b)?+\{%b(?:,%b)*+\} %b)++)"
    % (_NAME, _SUFFIX, _PLAIN_LABEL, _PLAIN_LABEL, _VALUE)
)
_SAID: Final = re.compile(rb"(HELP|TYPE) (%b)[ \t]*+(.*+)" % _NAME)
_SAMPLE: Final = re.compile(
    rb"(?P<name>%b)(?:\{(?P<labels>(?:%b(?:,|(?=\})))*+)\})?+[ \t]++(?P<value>%b)(?:[ \t].*+)?+"
    % (_NAME, _LABEL, _VALUE)
)
_EACH_LABEL: Final = re.compile(_LABEL)
_SUFFIXED: Final = re.compile(rb"(.*?)(?:%b)" % _SUFFIX)


@dataclass(slots=True)
class _Family:
    """A family's samples of all replicas, and how it was first described."""

    help: bytes = b""
    type: bytes = b""
    samples: list[bytes] = field(default_factory=list)
    """Lines, each with a newline before it."""

    def text(self, name: bytes) -> bytes:
        kind = self.type if self.type in _TYPES else b"untyped"
        return b"# HELP %b %b\n# TYPE %b %b%b\n" % (name, self.help or name, name, kind, b"".join(self.samples))


_Families = dict[bytes, _Family]

_CACHE: Final = re.compile(rb"vllm:cache_config_info\{[^}\n]*\}")


def cache_tokens(scrape: bytes) -> int:
    """How many tokens the engine's KV cache holds; 0 if it does not say.

    An older vLLM names blocks alone: a token may need several (groups of layers), or a part of one (context parallel).
    """
    found = _CACHE.search(scrape)
    if found is None:
        return 0
    labels = (b"kv_cache_size_tokens", b"block_size", b"num_gpu_blocks")
    tokens, block_size, blocks = (re.search(rb'[{,]%b="([0-9]+)"' % label, found[0]) for label in labels)
    if tokens is not None:
        return count_of(tokens[1], MOST_CACHE_TOKENS)
    if block_size is None or blocks is None:
        return 0
    return min(count_of(block_size[1], MOST_CACHE_TOKENS) * count_of(blocks[1], MOST_CACHE_TOKENS), MOST_CACHE_TOKENS)


def merge(scrapes: Mapping[str, bytes]) -> bytes:
    """The scrapes of several replicas, by name, as one text in which each sample has the label `replica`."""
    families: _Families = {}
    for replica, scrape in scrapes.items():
        label = b'replica="%b"' % _escaped(replica)
        for piece in (b"\n" + _clean(scrape)).split(b"\n# "):
            _add(families, piece, label)
    return b"".join(family.text(name) for name, family in families.items() if family.samples)


def _escaped(value: str) -> bytes:
    text = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return text.encode("utf-8", "backslashreplace")


def _clean(scrape: bytes) -> bytes:
    """Lines as Prometheus takes them: in UTF-8 and without NUL, a newline between them."""
    try:
        scrape.decode()
    except UnicodeDecodeError:
        scrape = scrape.decode("utf-8", "replace").encode()
    return scrape.replace(b"\0", b"").replace(b"\r\n", b"\n").rstrip(b"\n")


def _add(families: _Families, piece: bytes, label: bytes) -> None:
    """Take in one comment with the samples up to the next one."""
    said = _ORDERLY.fullmatch(piece)
    if said is None or b'replica="' in piece:
        _add_disorderly(families, piece, label)
    elif said["family"].startswith(WANTED):
        family = families.setdefault(said["family"], _Family())
        family.type = family.type or said["type"]
        family.samples.append(said["samples"].replace(b"{", b"{%b," % label))


def _add_disorderly(families: _Families, piece: bytes, label: bytes) -> None:
    """A description without samples, samples without one or without labels, or something else."""
    comment, *lines = piece.split(b"\n")
    said = _SAID.fullmatch(comment)
    if said is not None and said[2].startswith(WANTED):
        family = families.setdefault(said[2], _Family())
        if said[1] == b"HELP":
            family.help = family.help or said[3]
        else:
            family.type = family.type or said[3]
    for line in lines:
        _add_line(families, line, label)


def _add_line(families: _Families, line: bytes, label: bytes) -> None:
    sample = _SAMPLE.fullmatch(line)
    if sample is None or not sample["name"].startswith(WANTED):
        return
    labels = [label]
    for own in _EACH_LABEL.findall(sample["labels"] or b""):
        labels.append(b"exported_" + own if own.startswith(b"replica=") else own)
    family = families.setdefault(_family_of(sample["name"], families), _Family())
    family.samples.append(b"\n%b{%b} %b" % (sample["name"], b",".join(labels), sample["value"]))


def _family_of(name: bytes, families: _Families) -> bytes:
    """The family that a sample's name belongs to: one that was described, or one of its own."""
    if name in families:
        return name
    suffixed = _SUFFIXED.fullmatch(name)
    return suffixed[1] if suffixed is not None and suffixed[1] in families else name
