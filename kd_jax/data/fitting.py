"""Images of mixed sizes and colors: brings each of them to one shape, exactly as Pillow does."""

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from kd_jax.core.errors import UsageError, check_choice

if TYPE_CHECKING:
    import PIL.Image

FILTERS = ("bicubic", "bilinear", "box", "lanczos")
"""Resampling filters of Pillow. All of them antialias when they reduce an image."""
MODES = ("crop", "pad", "stretch")
_LARGEST = 2**26
"""Maximum number of pixels of a resized image, before it is cropped."""


@dataclasses.dataclass(frozen=True)
class Fit:
    """Size and color to which all stored images are brought, exactly as by Pillow.

    Attributes:
        size: height and width of all images. None keeps the stored sizes, which must be equal.
        mode: `crop` resizes an image to the smallest size that covers `size` and cuts out its
            center, as torchvision's Resize and CenterCrop. `pad` resizes it to the largest size
            inside `size` and adds black borders, as Pillow's ImageOps.pad. `stretch` resizes it to
            `size` and changes its aspect ratio.
        filter: resampling filter of Pillow: `bicubic`, `bilinear`, `box` or `lanczos`.
        gray: make gray images of one channel. If false, all images become RGB.
    """

    size: tuple[int, int] | None = None
    mode: str = "crop"
    filter: str = "bicubic"
    gray: bool = False

    def __post_init__(self):
        if self.size is not None and (len(self.size) != 2 or min(self.size) < 1):
            raise ValueError(f"size must be a height and a width, not {self.size}")
        if self.size is not None and self.size[0] * self.size[1] > _LARGEST:
            raise ValueError(f"size must be at most 2**26 pixels in all, not {self.size}")
        check_choice(self.mode, MODES, "mode")
        check_choice(self.filter, FILTERS, "filter")

    def __call__(self, pixels: np.ndarray, name: str) -> np.ndarray:
        """Fits one image. The color is changed first.

        Args:
            pixels: uint8 `[H, W, C]`; gray, RGB or RGBA.
            name: name of the image for errors.

        Returns:
            uint8 `[*size, 3]`, or `[*size, 1]` with `gray`.

        Raises:
            UsageError: if the image is so long and narrow that it would become too large.
        """
        from PIL import Image

        whole = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
        image: PIL.Image.Image = whole.convert("L" if self.gray else "RGB")
        if self.size is not None and image.size != self.size[::-1]:
            image = self._resized(image, *self.size, name)
        array = np.asarray(image)
        return array[..., None] if self.gray else array

    def _resized(
        self, image: "PIL.Image.Image", height: int, width: int, name: str
    ) -> "PIL.Image.Image":
        from PIL import Image

        new = self._resized_size(image.size, height, width)
        if new[0] * new[1] > _LARGEST:
            raise UsageError(
                f"{name} has {image.width}x{image.height} pixels, which is too long and narrow to"
                f" be cropped to {height}x{width}: remove it, or set data.source.fit.mode ="
                " 'pad'."
            )
        resized = image.resize(new, Image.Resampling[self.filter.upper()])
        if self.mode == "crop":  # torchvision rounds half to even, too
            left, top = round((new[0] - width) / 2), round((new[1] - height) / 2)
            return resized.crop((left, top, left + width, top + height))
        if self.mode == "pad":
            black = Image.new(image.mode, (width, height))
            black.paste(resized, (round((width - new[0]) / 2), round((height - new[1]) / 2)))
            return black
        return resized

    def _resized_size(self, size: tuple[int, int], height: int, width: int) -> tuple[int, int]:
        """Returns width and height after the resize, before the crop or the borders.

        Args:
            size: width and height of the image.
            height: height of the result.
            width: width of the result.
        """
        if self.mode == "stretch":
            return width, height
        wide = size[0] * height > width * size[1]  # wider than the result
        if self.mode == "crop":
            if wide:
                return height * size[0] // size[1], height
            return width, width * size[1] // size[0]
        if wide:
            return width, max(1, round(size[1] / size[0] * width))
        return max(1, round(size[0] / size[1] * height)), height
