"""Images at lower resolutions, as Pillow makes them, by two small matrix products."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from PIL import Image

FILTERS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "box": Image.Resampling.BOX,
    "lanczos": Image.Resampling.LANCZOS,
}


@functools.lru_cache
def resampling_matrix(size: int, new_size: int, filter: str = "bicubic") -> np.ndarray:
    """Weights `[new_size, size]` with which Pillow resamples a line of `size` pixels.

    A separable linear resampler is known by what it makes of an identity matrix, so the weights
    (antialiasing included) are Pillow's own. Every row sums to one.
    """
    identity = Image.fromarray(np.eye(size, dtype=np.float32))
    matrix = np.asarray(identity.resize((new_size, size), FILTERS[filter])).T
    return np.ascontiguousarray(matrix)


def resize(images: jax.Array, size: tuple[int, int], filter: str = "bicubic") -> jax.Array:
    """Resamples a batch to `size`, within 2 grey levels of `PIL.Image.resize` on uint8.

    Like Pillow it resamples rows first and rounds and clips to 0..255 after each direction: real
    low-resolution images are 8-bit, and bicubic overshoot would otherwise leak through.

    Args:
        images: `[N, H, W, C]` float, values 0 to 255.
        size: new (height, width).
        filter: a name of `FILTERS`.

    Returns:
        `[N, *size, C]` of the images' dtype, whole numbers 0 to 255. Images that have the size
        already come back as they are.
    """
    for axis, letters in ((2, "nhwc,ow->nhoc"), (1, "nhwc,oh->nowc")):
        if images.shape[axis] != size[axis - 1]:
            matrix = resampling_matrix(images.shape[axis], size[axis - 1], filter)
            weights = jnp.asarray(matrix, images.dtype)
            images = jnp.einsum(letters, images, weights, precision=lax.Precision.HIGHEST)
            images = jnp.clip(jnp.floor(images + 0.5), 0, 255)
    return images
