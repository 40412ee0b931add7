"""Degradation: images blurred and reduced to a random low resolution, then enlarged again."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from kd_jax.core.errors import UsageError, check_choice
from kd_jax.data.preprocessing.augmentation import example_keys
from kd_jax.data.preprocessing.resolution import (
    FILTERS,
    check_filter,
    resampling_matrix,
    to_gray_levels,
)

BLUR_ONLY = "none"
"""Value of `Degradation.down` for images that are blurred and not resampled."""
_LARGEST_BLUR = 100
"""Greatest blur: wider filters average the whole image."""
_ROWS, _COLUMNS = "nhwc,now->nhoc", "nhwc,noh->nowc"


@dataclasses.dataclass(frozen=True)
class Degradation:
    """Blurs some images, reduces them to a few pixels, and enlarges them to their size again.

    KDim, Wang et al., ICCVW 2019, section 2.2: 40 % of the training images are convolved with a
    Gaussian filter whose size follows the ratio of the resolutions, and reduced to 8, 12, 16, 20 or
    30 pixels square. The paper gives neither the standard deviation nor the filters that resample.

    All sizes are one compiled program: the matrices are rows of a table, and each image takes the
    row of its size. Low-resolution images are rounded to gray levels, like real ones.

    Attributes:
        sizes: heights of the low-resolution images; one of them is drawn per image.
        probability: probability that an image is degraded, 0 to 1; other images stay the same.
        keep_aspect: derive the low width from the aspect ratio of the images. False makes it equal
            to the low height (8x8 from 112x96, as in KDim).
        blur: standard deviation of the Gaussian filter before the reduction, in pixels of the full
            image divided by the ratio (full height / low height). 0.5 follows image libraries
            (scikit-image: (ratio - 1) / 2) and super-resolution (RDN, CVPR 2018: 1.6 at ratio 3). 0
            leaves the filter out: Pillow's filters antialias without it.
        down: filter of the reduction, a name in `FILTERS`. `none` blurs the images and does not
            resample them.
        up: filter of the enlargement, a name in `FILTERS`.
        fixed_seed: seed of a fixed choice: the same images are degraded in every epoch, each to the
            same size. None draws a new choice for every batch.
    """

    sizes: tuple[int, ...] = (8, 12, 16, 20, 30)
    probability: float = 0.4
    keep_aspect: bool = False
    blur: float = 0.5
    down: str = "bicubic"
    up: str = "bicubic"
    fixed_seed: int | None = None

    def __post_init__(self):
        if not self.sizes or min(self.sizes) < 1:
            raise ValueError(f"sizes must be one or more numbers of pixels, not {self.sizes}")
        if not 0 <= self.probability <= 1:
            raise ValueError(f"probability must be 0 to 1, not {self.probability}")
        if not 0 <= self.blur <= _LARGEST_BLUR:
            raise ValueError(f"blur must be 0 to {_LARGEST_BLUR}, not {self.blur}")
        check_choice(self.down, (*FILTERS, BLUR_ONLY), "down")
        check_filter(self.up, "up")
        if self.down == BLUR_ONLY and not self.blur:
            raise ValueError(f"blur must be greater than 0 with down = {BLUR_ONLY!r}")
        if self.fixed_seed is not None and not 0 <= self.fixed_seed < 2**63:
            raise ValueError("fixed_seed must be at least 0 and less than 2**63")

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

    def __call__(
        self, keys: jax.Array, images: jax.Array, index: jax.Array | None = None
    ) -> jax.Array:
        """Degrades random images, each to a random size.

        Args:
            keys: random keys `[N]`.
            images: float `[N, H, W, C]`, 0 to 255.
            index: positions of the images in the training set, int32 `[N]`, for `fixed_seed`.

        Returns:
            The same shape and dtype. Degraded images have integer values 0 to 255; the others are
            returned unchanged.

        Raises:
            UsageError: if `fixed_seed` is set and the positions are missing.
        """
        if self.fixed_seed is not None:
            if index is None:
                raise UsageError(
                    "degradation.fixed_seed needs the positions of the images in the training set:"
                    " add batch['index'], int32 [N], or set fixed_seed = None."
                )
            keys = example_keys(jax.random.key(self.fixed_seed), index)

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
        height, width = images.shape[1:3]
        for one in _passes(self, (height, width)):
            weights = jnp.asarray(one.table, images.dtype)[kinds]
            images = jnp.einsum(one.letters, images, weights, precision=lax.Precision.HIGHEST)
            images = to_gray_levels(images) if one.rounded else images
        return images


class _Pass(NamedTuple):
    """One matrix product with all lines of an image.

    Attributes:
        letters: axes of the product, for einsum.
        table: weights by size, float32 `[sizes, out, in]`.
        rounded: round the result to gray levels.
    """

    letters: str
    table: np.ndarray
    rounded: bool


@functools.lru_cache
def _passes(degradation: Degradation, full: tuple[int, int]) -> tuple[_Pass, ...]:
    """Returns the passes over an image, rows before columns, like Pillow.

    Args:
        degradation: the sizes, filters and blur.
        full: height and width of the images.
    """
    height, width = full
    low = [
        (size, max(1, round(width * size / height)) if degradation.keep_aspect else size)
        for size in degradation.sizes
    ]
    # The blur of a lens: the same standard deviation on both axes.
    stds = [degradation.blur * height / size for size in degradation.sizes]
    vertical, horizontal = ([gaussian_matrix(length, std) for std in stds] for length in full)
    if degradation.down == BLUR_ONLY:
        return (
            _Pass(_ROWS, _table(horizontal), False),
            _Pass(_COLUMNS, _table(vertical), True),
        )
    passes = []
    for letters, axis, blurs in ((_ROWS, 1, horizontal), (_COLUMNS, 0, vertical)):
        matrices = [
            resampling_matrix(full[axis], size[axis], degradation.down) @ blur
            for size, blur in zip(low, blurs, strict=True)
        ]
        rounded = axis == 0 or FILTERS[degradation.down].rounds_rows
        passes.append(_Pass(letters, _table(matrices), rounded))
    for letters, axis in ((_ROWS, 1), (_COLUMNS, 0)):
        matrices = [resampling_matrix(size[axis], full[axis], degradation.up) for size in low]
        rounded = axis == 0 or FILTERS[degradation.up].rounds_rows
        passes.append(_Pass(letters, _table(matrices), rounded))
    return tuple(passes)


def _table(matrices: Sequence[np.ndarray]) -> np.ndarray:
    """Stacks matrices `[out, in]`; smaller ones are filled up with 0."""
    rows, columns = np.max([matrix.shape for matrix in matrices], axis=0)
    table = np.zeros((len(matrices), rows, columns), np.float32)
    for kind, matrix in enumerate(matrices):
        table[kind, : len(matrix), : matrix.shape[1]] = matrix
    return table


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
