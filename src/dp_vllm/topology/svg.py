"""Writes a picture as SVG. It must not know what is drawn."""

from xml.sax.saxutils import escape

from dp_vllm.topology.drawing import Mark, Picture, Rectangle


def svg(picture: Picture) -> bytes:
    """The file's content."""
    size = f'width="{picture.width}" height="{picture.height}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {picture.width} {picture.height}" {size} '
        'font-family="system-ui, sans-serif">',
        f'<rect {size} fill="#ffffff"/>',
        *map(_element, picture.marks),
        "</svg>",
    ]
    return "".join(f"{line}\n" for line in lines).encode()


def _element(mark: Mark) -> str:
    if isinstance(mark, Rectangle):
        place = f'x="{mark.x:g}" y="{mark.y:g}" width="{mark.width:g}" height="{mark.height:g}"'
        stroke = f' stroke="{mark.stroke}" stroke-width="{mark.stroke_width:g}"' if mark.stroke else ""
        return f'<rect {place} fill="{mark.fill or "none"}"{stroke}/>'
    weight = ' font-weight="bold"' if mark.bold else ""
    anchor = f' text-anchor="{mark.anchor}"' if mark.anchor != "start" else ""
    place = f'x="{mark.x:g}" y="{mark.y:g}" font-size="{mark.size}"'
    return f'<text {place}{weight}{anchor} fill="{mark.fill}">{escape(mark.text)}</text>'
