"""The frame of a page: its style, its sections, and tables that scroll on narrow screens."""

import base64
import html
import io
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

_STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff;
  max-width: 1160px; margin: 0 auto; padding: 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; margin: 0.5rem 0; }
h2 { font-size: 1.2rem; margin: 2rem 0 0.5rem; border-bottom: 1px solid #ccc; }
h3 { font-size: 1rem; margin: 1rem 0 0.25rem; }
p, li { max-width: 75ch; }
.note { color: #555; font-size: 0.9rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.9rem; overflow-wrap: normal; }
th, td { padding: 0.25rem 0.6rem; border-bottom: 1px solid #ddd; text-align: left;
  white-space: nowrap; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
td.wide { white-space: normal; min-width: 10rem; overflow-wrap: anywhere; }
.panels { display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr)); }
.panels > * { min-width: 0; }
.panels svg, .panels img { width: 100%; max-width: 560px; height: auto; display: block; }
.pictures { display: grid; grid-template-columns: repeat(8, minmax(0, 96px)); gap: 4px; }
.pictures img { width: 100%; height: auto; image-rendering: pixelated; display: block; }
@media (max-width: 600px) { .pictures { grid-template-columns: repeat(4, minmax(0, 1fr)); } }
pre { overflow-x: auto; background: #f6f6f6; padding: 0.75rem; font-size: 0.8rem; }
summary { cursor: pointer; }
"""


class Section(NamedTuple):
    """A part of a page: its title, and its content in HTML."""

    title: str
    content: str


def page(title: str, summary: str, sections: Iterable[Section]) -> str:
    """Returns a whole page.

    Args:
        title: title, as plain text.
        summary: first paragraph, as plain text.
        sections: the parts of the page.
    """
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{html.escape(title)}</h1>{paragraph(summary)}",
    ]
    parts += [f"<section><h2>{html.escape(s.title)}</h2>{s.content}</section>" for s in sections]
    return "\n".join([*parts, "</body></html>", ""])


def paragraph(text: str, kind: str = "") -> str:
    """Returns plain text as a paragraph; words between backquotes are set as code."""
    parts = [html.escape(part) for part in text.split("`")]
    marked = "".join(f"<code>{p}</code>" if i % 2 else p for i, p in enumerate(parts))
    return f'<p class="{kind}">{marked}</p>' if kind else f"<p>{marked}</p>"


def bullets(lines: Iterable[str]) -> str:
    """Returns lines of plain text as a list."""
    return "<ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in lines) + "</ul>"


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    left: int = 1,
    wide: Sequence[int] = (),
) -> str:
    """Returns a table of plain texts, which scrolls on narrow screens.

    Args:
        columns: names of the columns.
        rows: cells of every row.
        left: number of first columns that are aligned to the left.
        wide: positions of the columns whose text may have several lines.
    """

    def kind(i: int) -> str:
        names = (["number"] if i >= left else []) + (["wide"] if i in wide else [])
        return f' class="{" ".join(names)}"' if names else ""

    head = "".join(f"<th{kind(i)}>{html.escape(c)}</th>" for i, c in enumerate(columns))
    body = "".join(
        "<tr>" + "".join(f"<td{kind(i)}>{html.escape(c)}</td>" for i, c in enumerate(row)) + "</tr>"
        for row in rows
    )
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
        "</div>"
    )


def panels(contents: Iterable[str]) -> str:
    """Returns pictures side by side, as many as the width allows."""
    return '<div class="panels">' + "".join(f"<div>{c}</div>" for c in contents) + "</div>"


def details(title: str, content: str) -> str:
    """Returns content that is shown after a click on its title."""
    return f"<details><summary>{html.escape(title)}</summary>{content}</details>"


def image(content: bytes, text: str) -> str:
    """Returns an element with the content of a PNG file; `text` describes it."""
    data = base64.b64encode(content).decode()
    return f'<img alt="{html.escape(text)}" src="data:image/png;base64,{data}">'


def pictures(images: np.ndarray, text: str) -> str:
    """Returns images uint8 `[N, H, W, C]` in rows of eight, or of four on narrow screens.

    Args:
        images: images of 1 or 3 channels.
        text: description of the images.
    """
    from PIL import Image

    elements = []
    for pixels in images:
        file = io.BytesIO()
        Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(file, "png")
        elements.append(image(file.getvalue(), text))
    return f'<div class="pictures">{"".join(elements)}</div>'
