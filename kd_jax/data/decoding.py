"""Decoding of image files: upright RGB images of 8 bits, or an error."""

import io
import re
import sys
from typing import TYPE_CHECKING

import numpy as np

from kd_jax.core.errors import UsageError

if TYPE_CHECKING:
    import PIL.Image

# Pillow can read others, too, and starts a program for some of them.
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
_ORIENTATION = 0x0112  # tag of EXIF
_TURNS = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
"""Operation that brings an image upright, by its orientation."""


def pixels(data: bytes, name: str) -> np.ndarray:
    """Decodes an image file.

    Args:
        data: content of the file.
        name: name of the image for errors.

    Returns:
        uint8 RGB `[H, W, 3]`.

    Raises:
        UsageError: if the image is damaged or animated, is too large, or has more than 8 bits per
            channel.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            _check_image(image, name)
            image.load()
            turn = _TURNS.get(_orientation(image))
            upright = image if turn is None else image.transpose(Image.Transpose[turn])
            return np.asarray(upright if upright.mode == "RGB" else upright.convert("RGB"))
    except UsageError:
        raise
    except (MemoryError, Image.DecompressionBombError) as error:
        raise UsageError(f"{name} is too large for the memory: reduce the image.") from error
    except Exception as error:  # each of Pillow's decoders raises its own kinds of errors
        raise UsageError(f"{name} is damaged or no image: restore the file.") from error


def _check_image(image: "PIL.Image.Image", name: str) -> None:
    """Raises `UsageError` for an opened image that would lose frames or bits."""
    from PIL import Image

    if image.width * image.height > (Image.MAX_IMAGE_PIXELS or sys.maxsize):
        raise UsageError(f"{name} has {image.width}x{image.height} pixels: reduce the image.")
    if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:  # MPO: of some cameras
        raise UsageError(f"{name} is animated or has several pages: save one image per file.")
    if image.mode.startswith(("I", "F")) or _is_cut(image):
        raise UsageError(
            f"{name} has pixels of more than 8 bits (mode {image.mode!r}): convert it."
        )


def _is_cut(image: "PIL.Image.Image") -> bool:
    """Returns whether Pillow would cut the channels of an opened image to 8 bits."""
    for tile in getattr(image, "tile", ()):
        words = tile[3] if isinstance(tile[3], tuple) else (tile[3],)
        if any(isinstance(word, str) and re.search(";16[BLN]", word) for word in words):
            return True
        if image.format == "PPM" and isinstance(words[-1], int) and words[-1] > 255:
            return True
    return False


def _orientation(image: "PIL.Image.Image") -> int:
    """Returns the EXIF orientation of a decoded image; 1, upright, if there is none to read."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # other programs, too, show an image whose EXIF block is damaged as it is
        return 1
