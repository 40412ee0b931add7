"""Augmentation on the device: random crops and flips of images, and mixup of a batch."""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax


def example_keys(key: jax.Array, rows: jax.Array) -> jax.Array:
    """Returns one random key per row of the global batch, `[N]`.

    The random numbers of an image depend only on its row in the batch, not on its device.

    Args:
        key: random key of the step.
        rows: rows of the images in the global batch, int32 `[N]`.
    """
    return jax.vmap(lambda row: jax.random.fold_in(key, row))(rows)


def random_crop(keys: jax.Array, images: jax.Array, padding: int) -> jax.Array:
    """Pads images with black and crops them to the same size at uniformly random offsets.

    Args:
        keys: random keys `[N]`.
        images: `[N, H, W, C]`.
        padding: number of black pixels on each side; offsets are 0 to `2 * padding`.
    """
    sides = (padding, padding)
    padded = jnp.pad(images, ((0, 0), sides, sides, (0, 0)))
    offsets = jax.vmap(lambda key: jax.random.randint(key, (2,), 0, 2 * padding + 1))(keys)
    size = images.shape[1:]

    def crop(image, offset):
        return lax.dynamic_slice(image, (offset[0], offset[1], jnp.zeros_like(offset[0])), size)

    return jax.vmap(crop)(padded, offsets)


def random_flip(keys: jax.Array, images: jax.Array) -> jax.Array:
    """Mirrors each image left to right with probability 1/2.

    Args:
        keys: random keys `[N]`.
        images: `[N, H, W, C]`.
    """
    flip = jax.vmap(jax.random.bernoulli)(keys)
    return jnp.where(flip[:, None, None, None], images[:, :, ::-1], images)


class MixedLabels(NamedTuple):
    """The second labels of a batch after `mixup`, and the weight of the first.

    The cross-entropy of a mixed batch is `weight * CE(own labels) + (1 - weight) * CE(labels)`.

    Attributes:
        labels: labels of the partners, int32 `[N]`.
        weight: weight of an image and of its own label, float32 scalar, 0 to 1.
    """

    labels: jax.Array
    weight: jax.Array


def mixup(
    key: jax.Array,
    images: jax.Array,
    labels: jax.Array,
    *,
    alpha: float,
    axis_name: str | None = None,
) -> tuple[jax.Array, MixedLabels]:
    """Mixes every image with another image of the batch.

        mixed = weight * image + (1 - weight) * partner,    weight ~ Beta(alpha, alpha)

    Zhang et al., mixup: Beyond Empirical Risk Minimization, ICLR 2018, figure 1. One weight is
    drawn per batch. The partners are a random permutation of the global batch.

    Args:
        key: random key, the same on all devices.
        images: uint8 or float `[N, H, W, C]`; under `jax.pmap` the part of this device.
        labels: int32 `[N]`.
        alpha: parameter of the Beta distribution, greater than 0; small values mix little.
        axis_name: the axis of `jax.pmap`, over which images and labels are gathered. None is for
            the global view of `jax.jit`. Both give the same result.

    Returns:
        The mixed images, float32 `[N, H, W, C]`, not rounded; and the second labels.

    Raises:
        ValueError: if alpha is not positive and finite.
    """
    if not 0 < alpha < math.inf:
        raise ValueError(f"alpha must be greater than 0 and finite, not {alpha}")
    weight_key, partner_key = jax.random.split(key)
    weight = jax.random.beta(weight_key, alpha, alpha, dtype=jnp.float32)
    rows, all_images, all_labels = jnp.arange(len(labels)), images, labels
    if axis_name is not None:
        rows += len(rows) * lax.axis_index(axis_name)
        all_images, all_labels = lax.all_gather((images, labels), axis_name, tiled=True)
    partners = jax.random.permutation(partner_key, len(all_labels))[rows]
    own, other = images.astype(jnp.float32), all_images[partners].astype(jnp.float32)
    return weight * own + (1 - weight) * other, MixedLabels(all_labels[partners], weight)


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """The standard augmentation of small images: padded random crop, then horizontal flip.

    Attributes:
        crop_padding: number of black pixels on each side before the crop; 0 leaves the crop out.
        flip: mirror half of the images.
        mixup: alpha of the Beta distribution of `mixup`; 0 leaves mixup out. The train step mixes
            the batch before this object is called.
    """

    crop_padding: int = 0
    flip: bool = False
    mixup: float = 0.0

    def __post_init__(self):
        if self.crop_padding < 0:
            raise ValueError(f"crop_padding must be 0 or more, not {self.crop_padding}")
        if not 0 <= self.mixup < math.inf:
            raise ValueError(f"mixup must be 0 or more, and finite, not {self.mixup}")

    def __call__(self, keys: jax.Array, images: jax.Array) -> jax.Array:
        """Crops and flips images; shape and dtype stay the same.

        Args:
            keys: random keys `[N]`.
            images: `[N, H, W, C]`.
        """
        crop_keys, flip_keys = jax.vmap(jax.random.split, out_axes=1)(keys)
        if self.crop_padding:
            images = random_crop(crop_keys, images, self.crop_padding)
        if self.flip:
            images = random_flip(flip_keys, images)
        return images
