"""Resolution: resampling of images as in Pillow and OpenCV, by small matrix products."""

import dataclasses
import functools
import types
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from kd_jax.core.errors import UsageError, check_choice


@dataclasses.dataclass(frozen=True)
class Filter:
    """A separable resampling filter for 8-bit images.

    Resampling is linear, so that the resampled identity matrix gives its weights. They are exactly
    the weights of the library, including antialiasing.

    Attributes:
        resample: maps the identity `[size, size]` and a new width to `[size, new width]`.
        rounds_rows: True if the library rounds rows to 8 bits before it resamples columns.
    """

    resample: Callable[[np.ndarray, int], np.ndarray]
    rounds_rows: bool


def _pillow(name: str) -> Filter:
    def resample(identity: np.ndarray, width: int) -> np.ndarray:
        from PIL import Image

        image = Image.fromarray(identity)
        resized = image.resize((width, len(identity)), Image.Resampling[name])
        # Pillow's weights are fixed-point numbers, which decides how it rounds a mean of .5.
        return _fixed_point(np.asarray(resized), 22)

    return Filter(resample, rounds_rows=True)


def _opencv(name: str, bits: int | None = None) -> Filter:
    def resample(identity: np.ndarray, width: int) -> np.ndarray:
        cv2 = opencv("a filter whose name begins with cv2_")
        resized = cv2.resize(identity, (width, len(identity)), interpolation=getattr(cv2, name))
        return resized if bits is None else _fixed_point(resized, bits)

    return Filter(resample, rounds_rows=False)


def _fixed_point(weights: np.ndarray, bits: int) -> np.ndarray:
    return np.round(weights * 2.0**bits) / np.float32(2**bits)


FILTERS: dict[str, Filter] = {
    "bicubic": _pillow("BICUBIC"),
    "bilinear": _pillow("BILINEAR"),
    "box": _pillow("BOX"),
    "lanczos": _pillow("LANCZOS"),
    "cv2_area": _opencv("INTER_AREA"),
    "cv2_cubic": _opencv("INTER_CUBIC"),
    "cv2_lanczos4": _opencv("INTER_LANCZOS4", bits=11),
    "cv2_linear": _opencv("INTER_LINEAR"),
    "cv2_nearest": _opencv("INTER_NEAREST"),
}
"""Filters of Pillow, and those of OpenCV with the prefix `cv2_`. Pillow's filters antialias when
they reduce an image; of OpenCV's only `cv2_area` does. Their cubic filters differ: a = -0.75 in
OpenCV, -0.5 in Pillow."""


def check_filter(filter: str, key: str = "filter") -> str:
    """Returns the name of a filter if it is in `FILTERS`.

    Args:
        filter: the name to check.
        key: the option that has this value, for the error.

    Raises:
        UsageError: if the name is unknown.
    """
    return check_choice(filter, FILTERS, key)


def opencv(purpose: str) -> types.ModuleType:
    """Returns the module `cv2`, which is optional.

    Args:
        purpose: the feature that needs it, for the error.

    Raises:
        UsageError: if OpenCV is not installed.
    """
    try:
        import cv2
    except ImportError as error:
        raise UsageError(
            f"{purpose} needs OpenCV: run `pip install opencv-python-headless`."
        ) from error
    return cv2


@functools.lru_cache
def resampling_matrix(size: int, new_size: int, filter: str = "bicubic") -> np.ndarray:
    """Returns the weights that resample a line of pixels; every row sums to 1.

    Args:
        size: number of pixels of the line.
        new_size: number of pixels of the resampled line.
        filter: a name in `FILTERS`.

    Returns:
        float32 `[new_size, size]`.

    Raises:
        UsageError: if the filter is unknown, or needs OpenCV and that is not installed.
    """
    identity = np.eye(size, dtype=np.float32)
    return np.ascontiguousarray(FILTERS[check_filter(filter)].resample(identity, new_size).T)


def to_gray_levels(images: jax.Array) -> jax.Array:
    """Rounds and clips to the integers 0 to 255, like 8-bit images; the dtype stays the same."""
    return jnp.clip(jnp.floor(images + 0.5), 0, 255)


def resize(images: jax.Array, size: tuple[int, int], filter: str = "bicubic") -> jax.Array:
    """Resamples a batch to `size`, within 2 gray levels of Pillow or OpenCV on uint8.

    The result is rounded and clipped to 0..255, as in real 8-bit images; otherwise it would have
    the overshoot of the bicubic filter. Pillow's filters also round after the rows, as in Pillow.

    Args:
        images: float `[N, H, W, C]`, 0 to 255.
        size: new (height, width).
        filter: a name in `FILTERS`.

    Returns:
        `[N, *size, C]` of the same dtype, integer values 0 to 255. Images that have this size
        already are returned unchanged.

    Raises:
        UsageError: if the filter is unknown, or needs OpenCV and that is not installed.
    """
    rounds = (FILTERS[check_filter(filter)].rounds_rows, True)
    if images.shape[1:3] == size:
        return images
    for axis, letters, rounded in zip(
        (2, 1), ("nhwc,ow->nhoc", "nhwc,oh->nowc"), rounds, strict=True
    ):
        if images.shape[axis] != size[axis - 1]:
            matrix = resampling_matrix(images.shape[axis], size[axis - 1], filter)
            weights = jnp.asarray(matrix, images.dtype)
            images = jnp.einsum(letters, images, weights, precision=lax.Precision.HIGHEST)
        images = to_gray_levels(images) if rounded else images
    return images
