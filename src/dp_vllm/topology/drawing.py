"""What pictures are made of, before anybody has chosen a format. Lengths are pixels, x to the right and y downwards."""

from dataclasses import dataclass
from typing import Literal

Anchor = Literal["start", "middle", "end"]


@dataclass(frozen=True, slots=True)
class Rectangle:
    """Filled, framed, or both; the frame stands half on either side of the edge."""

    x: float
    y: float
    width: float
    height: float
    fill: str = ""
    """`#rrggbb`; empty for none."""
    stroke: str = ""
    stroke_width: float = 1


@dataclass(frozen=True, slots=True)
class Text:
    """One line; `y` is where its letters stand, and `x` where it starts, ends or has its middle."""

    x: float
    y: float
    text: str
    size: int = 13
    bold: bool = False
    anchor: Anchor = "start"
    fill: str = "#000000"


Mark = Rectangle | Text


@dataclass(frozen=True, slots=True)
class Picture:
    """Marks on white; the later ones lie on top."""

    width: int
    height: int
    marks: tuple[Mark, ...]
