"""Images at lower resolutions, as Pillow and OpenCV make them, by small matrix products."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from PIL import Image

from kd_jax.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Filter:
    """A separable resampler of 8-bit images.

    A linear resampler is known by what it makes of an identity matrix, so the weights
    (antialiasing included) are the library's own.

    Attributes:
        resample: from the identity `[size, size]` and a new width to `[size, new width]`.
        rounds_rows: whether the library brings rows to 8 bits before it resamples columns.
    """

    resample: Callable[[np.ndarray, int], np.ndarray]
    rounds_rows: bool


def _pillow(name: str) -> Filter:
    def resample(identity: np.ndarray, width: int) -> np.ndarray:
        image = Image.fromarray(identity)
        resized = image.resize((width, len(identity)), Image.Resampling[name])
        # Pillow's weights are fixed-point numbers; that decides how it rounds a mean of .5.
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


FILTERS = {
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
"""Pillow's filters by their names, which widen when they shrink an image, and OpenCV's, which do
not (but for `cv2_area`), and whose cubic is another (a = -0.75, where Pillow has -0.5)."""


def check_filter(filter: str) -> None:
    """Raises `ValueError` for a filter that is not in `FILTERS`."""
    if filter not in FILTERS:
        raise ValueError(f"filter {filter!r} is unknown: choose one of {', '.join(FILTERS)}")


def opencv(purpose: str):
    """The module `cv2`, which is optional."""
    try:
        import cv2
    except ImportError as error:
        raise UsageError(
            f"{purpose} needs OpenCV: run `pip install opencv-python-headless`."
        ) from error
    return cv2


@functools.lru_cache
def resampling_matrix(size: int, new_size: int, filter: str = "bicubic") -> np.ndarray:
    """Weights `[new_size, size]`, float32, with which a line of `size` pixels is resampled.

    Every row sums to one.
    """
    identity = np.eye(size, dtype=np.float32)
    return np.ascontiguousarray(FILTERS[filter].resample(identity, new_size).T)


def to_grey_levels(images: jax.Array) -> jax.Array:
    """Rounds and clips to whole numbers 0 to 255, as 8-bit images hold them; dtype stays."""
    return jnp.clip(jnp.floor(images + 0.5), 0, 255)


def resize(images: jax.Array, size: tuple[int, int], filter: str = "bicubic") -> jax.Array:
    """Resamples a batch to `size`, within 2 grey levels of Pillow or OpenCV on uint8.

    The result is rounded and clipped to 0..255, with Pillow's filters after the rows already, as
    there: real low-resolution images are 8-bit, and bicubic overshoot would otherwise leak
    through.

    Args:
        images: `[N, H, W, C]` float, values 0 to 255.
        size: new (height, width).
        filter: a name of `FILTERS`.

    Returns:
        `[N, *size, C]` of the images' dtype, whole numbers 0 to 255. Images that have the size
        already come back as they are.
    """
    rounds = (FILTERS[filter].rounds_rows, True)
    if images.shape[1:3] == size:
        return images
    for axis, letters, rounded in zip(
        (2, 1), ("nhwc,ow->nhoc", "nhwc,oh->nowc"), rounds, strict=True
    ):
        if images.shape[axis] != size[axis - 1]:
            matrix = resampling_matrix(images.shape[axis], size[axis - 1], filter)
            weights = jnp.asarray(matrix, images.dtype)
            images = jnp.einsum(letters, images, weights, precision=lax.Precision.HIGHEST)
        images = to_grey_levels(images) if rounded else images
    return images
