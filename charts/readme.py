"""Writes the table of values into the chart's README: `python charts/readme.py`, after a change of values.yaml.

A value's text is the comment above it. One whose parts have no comments is a value as a whole (`resources`); a group of
values has none itself.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import yaml

CHART: Final = Path(__file__).with_name("dp-vllm")
README: Final = CHART / "README.md"
VALUES: Final = CHART / "values.yaml"

BEGIN: Final = "<!-- values: made by charts/readme.py -->\n"
END: Final = "<!-- end of values -->\n"


class Value(NamedTuple):
    """One value."""

    name: str
    default: object
    text: str


def values(source: str) -> Iterator[Value]:
    """Those of a values.yaml. Raises ValueError if one has no comment."""
    root = yaml.compose(source, yaml.SafeLoader)
    assert isinstance(root, yaml.MappingNode)
    return _below(root, "", source.splitlines())


def table(source: str) -> str:
    """All values of a values.yaml, in Markdown."""
    rows = [f"| `{one.name}` | `{json.dumps(one.default)}` | {one.text} |\n" for one in values(source)]
    return "".join(["| value | default | |\n", "|---|---|---|\n", *rows])


def renewed(readme: str, source: str) -> str:
    """The README with the values of that values.yaml."""
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{table(source)}{END}{after}"


def _below(parent: yaml.MappingNode, prefix: str, lines: list[str]) -> Iterator[Value]:
    for key, node in parent.value:
        name = f"{prefix}{key.value}"
        if text := _comment(lines, key.start_mark.line):
            default = yaml.SafeLoader("").construct_document(node)
            yield Value(name, default, text)
        elif isinstance(node, yaml.MappingNode) and node.value:
            yield from _below(node, f"{name}.", lines)
        else:
            raise ValueError(f"values.yaml: {name} has no comment")


def _comment(lines: list[str], number: int) -> str:
    """The text right above a line."""
    first = number
    while first and lines[first - 1].lstrip().startswith("#"):
        first -= 1
    return " ".join(line.lstrip().removeprefix("#").strip() for line in lines[first:number])


if __name__ == "__main__":
    README.write_text(renewed(README.read_text(), VALUES.read_text()))
