"""Writes a picture as PNG with Pillow, whose own letters need no fonts on the machine. It must not know what is drawn.

Pillow is an extra: whoever has vLLM has it, and nothing else here needs it, so it is imported when a PNG is asked for.
"""

import io
from typing import TYPE_CHECKING, Final

from dp_vllm.errors import UserError
from dp_vllm.topology.drawing import Picture, Rectangle, Text

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw

SCALE: Final = 2
"""Dots for each pixel of an SVG, so that letters are clear on the screens of today."""
_ANCHORS: Final = {"start": "ls", "middle": "ms", "end": "rs"}


def png(picture: Picture) -> bytes:
    """The file's content. Raises UserError where there is no Pillow."""
    try:
        from PIL import Image, ImageDraw
    except ImportError as error:
        raise UserError(
            "a PNG needs Pillow, which is not installed here: pip install pillow (the extra `picture` of dp-vllm); "
            "without it, draw a .svg"
        ) from error
    image = Image.new("RGB", (picture.width * SCALE, picture.height * SCALE), "white")
    draw = ImageDraw.Draw(image)
    for mark in picture.marks:
        if isinstance(mark, Rectangle):
            _rectangle(draw, mark)
        else:
            _text(draw, mark)
    content = io.BytesIO()
    image.quantize(colors=256, dither=Image.Dither.NONE).save(content, "PNG", optimize=True)
    return content.getvalue()


def _rectangle(draw: "ImageDraw", mark: Rectangle) -> None:
    around = mark.stroke_width / 2 if mark.stroke else 0  # Pillow draws all of a frame inside
    box = (
        round((mark.x - around) * SCALE),
        round((mark.y - around) * SCALE),
        round((mark.x + mark.width + around) * SCALE) - 1,
        round((mark.y + mark.height + around) * SCALE) - 1,
    )
    width = round(mark.stroke_width * SCALE) if mark.stroke else 0
    draw.rectangle(box, fill=mark.fill or None, outline=mark.stroke or None, width=width)


def _text(draw: "ImageDraw", mark: Text) -> None:
    from PIL import ImageFont

    font = ImageFont.load_default(mark.size * SCALE)
    at = (mark.x * SCALE, mark.y * SCALE)
    # There is one weight of the letters; a line around them makes the bold one.
    draw.text(at, mark.text, mark.fill, font, _ANCHORS[mark.anchor], stroke_width=0.5 if mark.bold else 0)
