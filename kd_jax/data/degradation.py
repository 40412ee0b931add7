"""Low-resolution copies of images at their full size, each image at a random resolution."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from kd_jax.data.resolution import FILTERS, check_filter, resampling_matrix, to_grey_levels
from kd_jax.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Degradation:
    """Reduces some images to a few pixels and brings them back to their size.

    KDim, Wang et al., ICCVW 2019, section 2.2: 40 % of the training images are blurred and reduced
    to 8, 12, 16, 20 or 30 pixels square. The paper gives neither filter nor blur; Pillow's bicubic
    filter antialiases, and with it no further blur is needed.

    All sizes are one compiled program: the resamplers are rows of a table, and each image takes its
    own. The low-resolution image is rounded to grey levels, as a real one is.

    Attributes:
        sizes: heights of the low-resolution images; one of them is drawn for each image.
        share: of the images that are degraded, 0 to 1; the others stay as they are.
        keep_aspect: the width follows the images' aspect ratio; else it is the height (8x8 from
            112x96 is the convention of LR-LFW).
        blur: of a Gaussian before the reduction: its deviation in pixels of the full image, as
            a multiple of full height over low height. 0 leaves it out; about 0.5 where the filter
            does not antialias, as OpenCV's do not.
        down: filter of the reduction, a name of `FILTERS`.
        up: filter of the enlargement.
    """

    sizes: tuple[int, ...] = (8, 12, 16, 20, 30)
    share: float = 0.4
    keep_aspect: bool = False
    blur: float = 0.0
    down: str = "bicubic"
    up: str = "bicubic"

    def __post_init__(self):
        if not self.sizes or min(self.sizes) < 1:
            raise ValueError(f"sizes must be one or more numbers of pixels, not {self.sizes}")
        if not 0 <= self.share <= 1:
            raise ValueError(f"share must be 0 to 1, not {self.share}")
        if not 0 <= self.blur < math.inf:
            raise ValueError(f"blur must be 0 or more, not {self.blur}")
        for filter in (self.down, self.up):
            check_filter(filter)

    def check(self, image_size: tuple[int, int], where: str) -> None:
        """Raises `UsageError` if a size is larger than images of this height and width.

        Args:
            image_size: (height, width).
            where: config key to name.
        """
        most = image_size[0] if self.keep_aspect else min(image_size)
        if max(self.sizes) > most:
            raise UsageError(
                f"{where}.degradation.sizes {self.sizes} go beyond the images, which are"
                f" {image_size[0]}x{image_size[1]}: choose 1 to {most}."
            )

    def __call__(self, keys: jax.Array, images: jax.Array) -> jax.Array:
        """Degrades a random share of the images, each to a size of its own.

        Args:
            keys: random keys `[N]`.
            images: `[N, H, W, C]` float, whole numbers 0 to 255.

        Returns:
            The same shape and dtype, whole numbers 0 to 255; the images that are not drawn come
            back bit by bit.
        """

        def draw(key: jax.Array) -> tuple[jax.Array, jax.Array]:
            chosen, size = jax.random.split(key)
            kind = jax.random.randint(size, (), 0, len(self.sizes))
            return jax.random.uniform(chosen) < self.share, kind

        degraded, kinds = jax.vmap(draw)(keys)
        return jnp.where(degraded[:, None, None, None], self._apply(images, kinds), images)

    def to(self, images: jax.Array, size: int) -> jax.Array:
        """Degrades all images to one size, which need not be among `sizes`.

        Args:
            images: `[N, H, W, C]` float, whole numbers 0 to 255.
            size: height of the low-resolution images.
        """
        only = dataclasses.replace(self, sizes=(size,))
        return only._apply(images, jnp.zeros(len(images), jnp.int32))

    def _apply(self, images: jax.Array, kinds: jax.Array) -> jax.Array:
        """Degrades every image to the size of its place in `sizes`."""
        passes = [
            # Rows first, as Pillow does.
            ("nhwc,now->nhoc", "down", 1, FILTERS[self.down].rounds_rows),
            ("nhwc,noh->nowc", "down", 0, True),
            ("nhwc,now->nhoc", "up", 1, FILTERS[self.up].rounds_rows),
            ("nhwc,noh->nowc", "up", 0, True),
        ]
        tables = _tables(self, images.shape[1:3])
        for letters, name, axis, rounded in passes:
            table = jnp.asarray(tables[name][axis], images.dtype)
            images = jnp.einsum(letters, images, table[kinds], precision=lax.Precision.HIGHEST)
            images = to_grey_levels(images) if rounded else images
        return images


@functools.lru_cache
def _tables(
    degradation: Degradation, full: tuple[int, int]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Resamplers of height and width, `[sizes, out, in]`; small sizes are filled up with 0."""
    height, width = full
    low = [
        (size, max(1, round(width * size / height)) if degradation.keep_aspect else size)
        for size in degradation.sizes
    ]
    tables = {"down": [], "up": []}
    for axis, length in enumerate(full):
        most = max(size[axis] for size in low)
        down = np.zeros((len(low), most, length), np.float32)
        up = np.zeros((len(low), length, most), np.float32)
        for kind, size in enumerate(low):
            n = size[axis]
            # One deviation for both axes, as of a lens.
            blur = gaussian_matrix(length, degradation.blur * height / size[0])
            down[kind, :n] = resampling_matrix(length, n, degradation.down) @ blur
            up[kind, :, :n] = resampling_matrix(n, length, degradation.up)
        tables["down"].append(down)
        tables["up"].append(up)
    return {name: tuple(pair) for name, pair in tables.items()}


def gaussian_matrix(size: int, deviation: float) -> np.ndarray:
    """Weights `[size, size]`, float32, of a Gaussian blur of a line; mirrored at the ends.

    The kernel is cut off at four deviations and its weights sum to 1, as in
    `scipy.ndimage.gaussian_filter1d(mode="mirror")`.
    """
    from scipy.ndimage import gaussian_filter1d

    identity = np.eye(size)
    if deviation > 0:
        identity = gaussian_filter1d(identity, deviation, axis=0, mode="mirror")
    return identity.astype(np.float32)
