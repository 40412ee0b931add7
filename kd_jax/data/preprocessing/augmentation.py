"""Augmentation on the device: random crops and flips of images, and mixup of a batch."""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from kd_jax.data.preprocessing.crops import (
    RATIO,
    SCALE,
    center_window,
    random_crop,
    random_resized_crop,
    random_window,
)

_LARGEST_ALPHA = 1000
"""Greatest alpha of `Augmentation`: the weights are 0.5, with a standard deviation of 0.01."""


def example_keys(key: jax.Array, rows: jax.Array) -> jax.Array:
    """Returns one random key per row of the global batch, `[N]`.

    The random numbers of an image depend only on its row in the batch, not on its device.

    Args:
        key: random key of the step.
        rows: rows of the images in the global batch, int32 `[N]`.
    """
    return jax.vmap(lambda row: jax.random.fold_in(key, row))(rows)


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
    """Random crops of the images, then horizontal flips.

    The standard augmentation of small images is a padded crop, that of ImageNet a resized crop.
    Evaluation sees whole images, or with `crop` their centers.

    Attributes:
        crop_padding: number of black pixels on each side before the crop; 0 leaves the crop out.
        flip: mirror half of the images.
        mixup: alpha of the Beta distribution of `mixup`; 0 leaves mixup out. The train step mixes
            the batch before this object is called.
        resized_crop: height of the images after `random_resized_crop`, in proportion to which the
            width changes; 0 leaves this crop out.
        resized_crop_scale: least and greatest area of a resized crop, as a fraction of the image.
        resized_crop_ratio: least and greatest aspect ratio of a resized crop, width / height.
        crop: height of the window that evaluation cuts out of the center of the images, in
            proportion to which the width changes; 0 takes whole images. Training cuts a window of
            this size out at a random place, or takes a resized crop of the whole image if
            `resized_crop` is set.
    """

    crop_padding: int = 0
    flip: bool = False
    mixup: float = 0.0
    resized_crop: int = 0
    resized_crop_scale: tuple[float, float] = SCALE
    resized_crop_ratio: tuple[float, float] = RATIO
    crop: int = 0

    def __post_init__(self):
        for name in ("crop_padding", "resized_crop", "crop"):
            if (value := getattr(self, name)) < 0:
                raise ValueError(f"{name} must be 0 or more, not {value}")
        for name in ("resized_crop", "crop"):
            if self.crop_padding and getattr(self, name):
                raise ValueError(f"crop_padding and {name} are two crops: set one of them to 0")
        for name, default in (("resized_crop_scale", SCALE), ("resized_crop_ratio", RATIO)):
            value = getattr(self, name)
            if not self.resized_crop and tuple(value) != default:
                raise ValueError(f"{name} is not used without resized_crop: leave it out")
            if len(value) != 2 or not 0 < value[0] <= value[1] < math.inf:
                raise ValueError(f"{name} must be two numbers above 0 in order, not {value}")
        if self.resized_crop_scale[1] > 1:
            raise ValueError(f"resized_crop_scale must be at most 1, not {self.resized_crop_scale}")
        if not 0 <= self.mixup <= _LARGEST_ALPHA:
            raise ValueError(f"mixup must be 0 to {_LARGEST_ALPHA}, not {self.mixup}")

    def __call__(self, keys: jax.Array, images: jax.Array) -> jax.Array:
        """Crops and flips images for training; the dtype stays the same.

        Args:
            keys: random keys `[N]`.
            images: `[N, H, W, C]`, 0 to 255.

        Returns:
            The same shape, except with `resized_crop` or `crop`.
        """
        crop_keys, flip_keys = jax.vmap(jax.random.split, out_axes=1)(keys)
        height, width = images.shape[1:3]
        if self.crop_padding:
            images = random_crop(crop_keys, images, self.crop_padding)
        if self.resized_crop:
            size = _in_proportion(self.resized_crop, (height, width))
            scale, ratio = self.resized_crop_scale, self.resized_crop_ratio
            images = random_resized_crop(crop_keys, images, size, scale, ratio)
        elif self.crop:
            images = random_window(crop_keys, images, self.evaluated_size((height, width)))
        if self.flip:
            images = random_flip(flip_keys, images)
        return images

    def evaluated_size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """Returns height and width of the part of the images that evaluation sees.

        Args:
            image_size: height and width of the images.
        """
        return _in_proportion(self.crop, image_size) if self.crop else image_size

    def evaluated(self, images: jax.Array) -> jax.Array:
        """Returns the part of images `[N, H, W, C]` that evaluation sees; small ones stay whole."""
        height, width = images.shape[1:3]
        return center_window(images, self.evaluated_size((height, width))) if self.crop else images


def _in_proportion(height: int, image_size: tuple[int, int]) -> tuple[int, int]:
    """Returns height and width of images whose aspect ratio is that of `image_size`."""
    return height, max(1, round(image_size[1] * height / image_size[0]))
