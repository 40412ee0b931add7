"""Contact sheets: pictures of many images with captions, for `kd-jax search`."""

import dataclasses
import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from kd_jax.core.errors import UsageError
from kd_jax.data.decoding import pixels
from kd_jax.data.image_files import read_file

if TYPE_CHECKING:
    import PIL.Image
    import PIL.ImageDraw
    import PIL.ImageFont

_CELL = 160
"""Height and width of the area of an image."""
_GAP = 12
_LINE = 17
"""Height of a line of text."""
_LINES = 2
_FONT_SIZE = 13
_PER_LINE = 10
"""Maximum number of images beside a query in one line."""
_LARGEST = 2**27
"""Maximum number of pixels of a sheet."""
_BACKGROUND, _INK, _FAINT, _FRAME = "#ffffff", "#1a1a1a", "#666666", "#d0d0d0"


@dataclasses.dataclass(frozen=True)
class Picture:
    """An image with its caption.

    Attributes:
        path: path of the image file.
        title: first line below the image.
        name: second line; the middle of a long one is left out.
    """

    path: str
    title: str
    name: str


def check_size(num_queries: int, number: int) -> None:
    """Raises `UsageError` if a sheet would be too large.

    Args:
        num_queries: number of queries.
        number: number of images per query.
    """
    height, width = _size(num_queries, number)
    if height * width > _LARGEST or max(height, width) >= 2**16:
        raise UsageError(
            f"A sheet of {num_queries} queries with {number} images each would have"
            f" {width}x{height} pixels: search for fewer images or queries at once."
        )


def contact_sheet(title: str, rows: Sequence[tuple[Picture, Sequence[Picture]]]) -> bytes:
    """Draws each query at the left of its nearest images.

    An image keeps its aspect ratio and is scaled to its cell; small ones are enlarged without
    smoothing by a whole number, so that their pixels can be seen.

    Args:
        title: text above the images.
        rows: each query and its images, the same number for all.

    Returns:
        The content of a PNG file.

    Raises:
        UsageError: if an image cannot be read, or the sheet would be too large.
    """
    from PIL import Image, ImageDraw, ImageFont

    number = max(len(found) for _, found in rows)
    check_size(len(rows), number)
    height, width = _size(len(rows), number)
    sheet = Image.new("RGB", (width, height), _BACKGROUND)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(_FONT_SIZE)
    draw.text((_GAP, _GAP), _shortened(title, font, width - 2 * _GAP), _INK, font)
    left, top = _GAP, 2 * _GAP + _LINE
    for query, found in rows:
        _draw(sheet, draw, font, query, (left, top))
        for i, picture in enumerate(found):
            line, column = divmod(i, _PER_LINE)
            x = left + (column + 1) * (_CELL + _GAP) + _GAP  # one more gap after the query
            _draw(sheet, draw, font, picture, (x, top + line * _line_height()))
        top += math.ceil(max(1, len(found)) / _PER_LINE) * _line_height()
        draw.line((_GAP, top - _GAP // 2, width - _GAP, top - _GAP // 2), _FRAME)
    file = io.BytesIO()
    sheet.save(file, "PNG")
    return file.getvalue()


def _size(num_queries: int, number: int) -> tuple[int, int]:
    """Returns the height and width of a sheet."""
    lines = num_queries * math.ceil(max(1, number) / _PER_LINE)
    columns = 1 + min(number, _PER_LINE)
    return 3 * _GAP + _LINE + lines * _line_height(), columns * (_CELL + _GAP) + 2 * _GAP


def _line_height() -> int:
    return _CELL + _LINES * _LINE + 2 * _GAP


def _draw(
    sheet: "PIL.Image.Image",
    draw: "PIL.ImageDraw.ImageDraw",
    font: "PIL.ImageFont.ImageFont | PIL.ImageFont.FreeTypeFont",
    picture: Picture,
    corner: tuple[int, int],
) -> None:
    """Draws an image in the middle of its cell, a frame around it, and its caption below."""
    image = _thumbnail(pixels(read_file(picture.path), picture.path))
    left = corner[0] + (_CELL - image.width) // 2
    top = corner[1] + (_CELL - image.height) // 2
    sheet.paste(image, (left, top))
    draw.rectangle((left - 1, top - 1, left + image.width, top + image.height), outline=_FRAME)
    for line, (text, color) in enumerate(((picture.title, _INK), (picture.name, _FAINT))):
        place = (corner[0] + _CELL // 2, corner[1] + _CELL + 4 + line * _LINE)
        draw.text(place, _shortened(text, font, _CELL), color, font, anchor="ma")


def _thumbnail(image: np.ndarray) -> "PIL.Image.Image":
    """Returns an image that fits into a cell, at least one pixel high and wide."""
    from PIL import Image

    whole = Image.fromarray(image)
    scale = _CELL / max(whole.size)
    if scale >= 1:
        times = math.floor(scale)
        size = whole.width * times, whole.height * times
        return whole.resize(size, Image.Resampling.NEAREST)
    size = max(1, round(whole.width * scale)), max(1, round(whole.height * scale))
    return whole.resize(size, Image.Resampling.LANCZOS)


def _shortened(
    text: str, font: "PIL.ImageFont.ImageFont | PIL.ImageFont.FreeTypeFont", width: int
) -> str:
    """Returns a text without its middle, if it is wider than `width` pixels."""
    # Names of files can have characters that no font has, and bytes that are no text.
    text = text.encode("utf-8", "backslashreplace").decode()
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    if font.getlength(text) <= width:
        return text
    kept = len(text)
    while kept > 1 and font.getlength(_cut(text, kept)) > width:
        kept -= 1
    return _cut(text, kept)


def _cut(text: str, kept: int) -> str:
    """Returns the first and the last characters of a text, `kept` in all, with dots between."""
    end = (kept + 1) // 2
    return f"{text[: kept - end]}...{text[len(text) - end :]}"
