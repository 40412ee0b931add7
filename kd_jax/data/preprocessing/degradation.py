"""Degradation: images reduced to a random low resolution and enlarged to their size again."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from kd_jax.core.errors import UsageError
from kd_jax.data.preprocessing.resolution import (
    FILTERS,
    check_filter,
    resampling_matrix,
    to_gray_levels,
)


@dataclasses.dataclass(frozen=True)
class Degradation:
    """Reduces some images to a few pixels and enlarges them to their size again.

    KDim, Wang et al., ICCVW 2019, section 2.2: 40 % of the training images are blurred and reduced
    to 8, 12, 16, 20 or 30 pixels square. The paper gives neither filter nor blur. Pillow's bicubic
    filter antialiases, so that it needs no blur.

    All sizes are one compiled program: the resampling matrices are rows of a table, and each image
    takes the row of its size. Low-resolution images are rounded to gray levels, like real ones.

    Attributes:
        sizes: heights of the low-resolution images; one of them is drawn per image.
        probability: probability that an image is degraded, 0 to 1; other images stay the same.
        keep_aspect: derive the low width from the aspect ratio of the images. False makes it equal
            to the low height (8x8 from 112x96 is the convention of LR-LFW).
        blur: standard deviation of a Gaussian blur before the reduction, in pixels of the full
            image divided by (full height / low height). 0 leaves the blur out. About 0.5 is right
            for filters that do not antialias, such as most of OpenCV's.
        down: filter of the reduction, a name in `FILTERS`.
        up: filter of the enlargement, a name in `FILTERS`.
    """

    sizes: tuple[int, ...] = (8, 12, 16, 20, 30)
    probability: float = 0.4
    keep_aspect: bool = False
    blur: float = 0.0
    down: str = "bicubic"
    up: str = "bicubic"

    def __post_init__(self):
        if not self.sizes or min(self.sizes) < 1:
            raise ValueError(f"sizes must be one or more numbers of pixels, not {self.sizes}")
        if not 0 <= self.probability <= 1:
            raise ValueError(f"probability must be 0 to 1, not {self.probability}")
        if not 0 <= self.blur < math.inf:
            raise ValueError(f"blur must be 0 or more, not {self.blur}")
        check_filter(self.down, "down")
        check_filter(self.up, "up")

    def check(self, image_size: tuple[int, int], key: str) -> None:
        """Raises `UsageError` if a size is larger than the images.

        Args:
            image_size: height and width of the images.
            key: config key of the network, for the error.
        """
        most = image_size[0] if self.keep_aspect else min(image_size)
        if max(self.sizes) > most:
            raise UsageError(
                f"{key}.degradation.sizes {self.sizes} go beyond the images, which are"
                f" {image_size[0]}x{image_size[1]}: choose 1 to {most}."
            )

    def __call__(self, keys: jax.Array, images: jax.Array) -> jax.Array:
        """Degrades random images, each to a random size.

        Args:
            keys: random keys `[N]`.
            images: float `[N, H, W, C]`, 0 to 255.

        Returns:
            The same shape and dtype. Degraded images have integer values 0 to 255; the others are
            returned unchanged.
        """

        def draw(key: jax.Array) -> tuple[jax.Array, jax.Array]:
            chosen, size = jax.random.split(key)
            kind = jax.random.randint(size, (), 0, len(self.sizes))
            return jax.random.uniform(chosen) < self.probability, kind

        degraded, kinds = jax.vmap(draw)(keys)
        return jnp.where(degraded[:, None, None, None], self._apply(images, kinds), images)

    def to(self, images: jax.Array, size: int) -> jax.Array:
        """Degrades all images to one size, which may be missing in `sizes`.

        Args:
            images: float `[N, H, W, C]`, 0 to 255.
            size: height of the low-resolution images.
        """
        only = dataclasses.replace(self, sizes=(size,))
        return only._apply(images, jnp.zeros(len(images), jnp.int32))

    def _apply(self, images: jax.Array, kinds: jax.Array) -> jax.Array:
        """Degrades every image to `sizes[kind]`; kinds int32 `[N]`."""
        passes = [
            # Rows first, like Pillow.
            ("nhwc,now->nhoc", "down", 1, FILTERS[self.down].rounds_rows),
            ("nhwc,noh->nowc", "down", 0, True),
            ("nhwc,now->nhoc", "up", 1, FILTERS[self.up].rounds_rows),
            ("nhwc,noh->nowc", "up", 0, True),
        ]
        tables = _tables(self, images.shape[1:3])
        for letters, name, axis, rounded in passes:
            table = jnp.asarray(tables[name][axis], images.dtype)
            images = jnp.einsum(letters, images, table[kinds], precision=lax.Precision.HIGHEST)
            images = to_gray_levels(images) if rounded else images
        return images


@functools.lru_cache
def _tables(degradation: Degradation, full: tuple[int, int]) -> dict[str, tuple[np.ndarray, ...]]:
    """Returns the resampling tables of height and width, `[sizes, out, in]` each.

    The rows of small sizes are filled up with 0.

    Args:
        degradation: the sizes, filters and blur.
        full: height and width of the images.
    """
    height, width = full
    low = [
        (size, max(1, round(width * size / height)) if degradation.keep_aspect else size)
        for size in degradation.sizes
    ]
    tables: dict[str, list[np.ndarray]] = {"down": [], "up": []}
    for axis, length in enumerate(full):
        most = max(size[axis] for size in low)
        down = np.zeros((len(low), most, length), np.float32)
        up = np.zeros((len(low), length, most), np.float32)
        for kind, size in enumerate(low):
            n = size[axis]
            # The blur of a lens: the same standard deviation on both axes.
            blur = gaussian_matrix(length, degradation.blur * height / size[0])
            down[kind, :n] = resampling_matrix(length, n, degradation.down) @ blur
            up[kind, :, :n] = resampling_matrix(n, length, degradation.up)
        tables["down"].append(down)
        tables["up"].append(up)
    return {name: tuple(pair) for name, pair in tables.items()}


def gaussian_matrix(size: int, std: float) -> np.ndarray:
    """Returns the weights of a Gaussian blur of a line of pixels, which is mirrored at its ends.

    The kernel is cut off at four standard deviations and its weights sum to 1, as in
    `scipy.ndimage.gaussian_filter1d(mode="mirror")`.

    Args:
        size: number of pixels.
        std: standard deviation in pixels; 0 gives the identity.

    Returns:
        float32 `[size, size]`.
    """
    from scipy.ndimage import gaussian_filter1d

    identity = np.eye(size)
    if std > 0:
        identity = gaussian_filter1d(identity, std, axis=0, mode="mirror")
    return identity.astype(np.float32)
