"""Augmentation on the device: random crops and flips of images, and mixup of a batch."""

import dataclasses
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from kd_jax.data.preprocessing.resolution import to_gray_levels

_CROP_ATTEMPTS = 10
_CROP_AREA = (0.08, 1.0)
_CROP_ASPECT = (3 / 4, 4 / 3)
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
    height, width = images.shape[1:3]
    crops: jax.Array = lax.platform_dependent(
        padded,
        offsets,
        cpu=functools.partial(slices, size=(height, width)),
        default=functools.partial(selects, size=(height, width)),
    )
    return crops


def slices(images: jax.Array, offsets: jax.Array, *, size: tuple[int, int]) -> jax.Array:
    """Cuts `size` out of images `[N, H, W, C]` at offsets `[N, 2]`, image by image."""

    def crop(image, offset):
        start = (offset[0], offset[1], jnp.zeros_like(offset[0]))
        return lax.dynamic_slice(image, start, (*size, image.shape[-1]))

    return jax.vmap(crop)(images, offsets)


def selects(images: jax.Array, offsets: jax.Array, *, size: tuple[int, int]) -> jax.Array:
    """Computes the same as `slices`, by a shift of all images for each bit of the offsets.

    Accelerators compute slices at different offsets one after the other.
    """
    for axis in (1, 2):
        length = size[axis - 1]
        bits = (images.shape[axis] - length).bit_length()
        for bit in reversed(range(bits)):
            # The bits below can shift by no more than this.
            rest = length + 2**bit - 1
            missing = max(0, rest + 2**bit - images.shape[axis])
            pad = [(0, missing if i == axis else 0) for i in range(4)]
            images = jnp.pad(images, pad)
            moved = lax.slice_in_dim(images, 2**bit, 2**bit + rest, axis=axis)
            shift = (offsets[:, axis - 1] >> bit & 1).astype(bool)
            kept = lax.slice_in_dim(images, 0, rest, axis=axis)
            images = jnp.where(shift[:, None, None, None], moved, kept)
    return images


def random_resized_crop(keys: jax.Array, images: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Crops each image to a random box and resizes the box, as torchvision's RandomResizedCrop.

    The area of the box is uniform in 8 to 100 % of the image, and the logarithm of its aspect ratio
    (width / height) is uniform between 3/4 and 4/3. Its place is uniform. See `random_boxes` and
    `resize_boxes`.

    Args:
        keys: random keys `[N]`.
        images: uint8 or float `[N, H, W, C]`, 0 to 255.
        size: height and width of the result.

    Returns:
        `[N, *size, C]` of the same dtype, integer values 0 to 255.
    """
    height, width = images.shape[1:3]
    return resize_boxes(images, random_boxes(keys, (height, width)), size)


def random_boxes(keys: jax.Array, image_size: tuple[int, int]) -> jax.Array:
    """Draws the boxes of `random_resized_crop`.

    Ten boxes are drawn per image, and the first one that fits into the image is taken. If none
    fits, it is the largest box in the center whose aspect ratio is at least 3/4 and at most 4/3.

    Args:
        keys: random keys `[N]`.
        image_size: height and width of the images.

    Returns:
        Top, left, height and width, int32 `[N, 4]`.
    """
    height, width = image_size
    aspect = min(max(width / height, _CROP_ASPECT[0]), _CROP_ASPECT[1])
    central = min(height, round(width / aspect)), min(width, round(height * aspect))
    low, high = math.log(_CROP_ASPECT[0]), math.log(_CROP_ASPECT[1])

    def draw(key: jax.Array) -> jax.Array:
        area_key, aspect_key, place_key = jax.random.split(key, 3)
        fractions = jax.random.uniform(
            area_key, (_CROP_ATTEMPTS,), jnp.float32, _CROP_AREA[0], _CROP_AREA[1]
        )
        area = height * width * fractions
        ratio = jnp.exp(jax.random.uniform(aspect_key, (_CROP_ATTEMPTS,), jnp.float32, low, high))
        sides = jnp.stack([jnp.sqrt(area / ratio), jnp.sqrt(area * ratio)], axis=-1)
        sides = jnp.round(sides).astype(jnp.int32)
        full = jnp.asarray(image_size, jnp.int32)
        fits = ((sides > 0) & (sides <= full[None])).all(-1)
        box = jnp.where(fits.any(), sides[fits.argmax()], jnp.asarray(central, jnp.int32))
        corner = jax.random.randint(place_key, (2,), 0, full - box + 1)
        corner = jnp.where(fits.any(), corner, (full - box) // 2)
        return jnp.concatenate([corner, box])

    return jax.vmap(draw)(keys)


def resize_boxes(images: jax.Array, boxes: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Cuts a box out of each image and resizes it as Pillow's bilinear filter, which antialiases.

    The result is within 1 gray level of Pillow. Pixels outside of the box have no influence.

    Args:
        images: uint8 or float `[N, H, W, C]`, 0 to 255.
        boxes: top, left, height and width, int32 `[N, 4]`, within the image.
        size: height and width of the result.

    Returns:
        `[N, *size, C]` of the same dtype, integer values 0 to 255.
    """
    x = images.astype(jnp.float32)
    for axis, letters in ((1, "nhwc,now->nhoc"), (0, "nhwc,noh->nowc")):  # in the order of Pillow
        start, length = boxes[:, axis], boxes[:, axis + 2]
        weights = _bilinear_weights(start, length, images.shape[axis + 1], size[axis])
        x = to_gray_levels(jnp.einsum(letters, x, weights, precision=lax.Precision.HIGHEST))
    return x.astype(images.dtype)


def _bilinear_weights(start: jax.Array, length: jax.Array, size: int, new_size: int) -> jax.Array:
    """Returns the weights that resample parts of lines of pixels; every row sums to 1.

    Args:
        start: first pixel of the part of each line, int32 `[N]`.
        length: number of pixels of the part, int32 `[N]`.
        size: number of pixels of a line.
        new_size: number of pixels of a resampled part.

    Returns:
        float32 `[N, new_size, size]`.
    """
    first = start.astype(jnp.float32)[:, None, None]
    count = length.astype(jnp.float32)[:, None, None]
    step = count / new_size
    pixels = jnp.arange(size, dtype=jnp.float32)[None, None] + 0.5
    centers = first + step * (jnp.arange(new_size, dtype=jnp.float32)[None, :, None] + 0.5)
    weights = jnp.maximum(1 - jnp.abs(pixels - centers) / jnp.maximum(step, 1), 0)
    weights = jnp.where((pixels > first) & (pixels < first + count), weights, 0)
    return weights / weights.sum(-1, keepdims=True)


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

    Attributes:
        crop_padding: number of black pixels on each side before the crop; 0 leaves the crop out.
        flip: mirror half of the images.
        mixup: alpha of the Beta distribution of `mixup`; 0 leaves mixup out. The train step mixes
            the batch before this object is called.
        resized_crop: height of the images after `random_resized_crop`, in proportion to which the
            width changes; 0 leaves this crop out.
    """

    crop_padding: int = 0
    flip: bool = False
    mixup: float = 0.0
    resized_crop: int = 0

    def __post_init__(self):
        for name in ("crop_padding", "resized_crop"):
            if (value := getattr(self, name)) < 0:
                raise ValueError(f"{name} must be 0 or more, not {value}")
        if self.crop_padding and self.resized_crop:
            raise ValueError("crop_padding and resized_crop are two crops: set one of them to 0")
        if not 0 <= self.mixup <= _LARGEST_ALPHA:
            raise ValueError(f"mixup must be 0 to {_LARGEST_ALPHA}, not {self.mixup}")

    def __call__(self, keys: jax.Array, images: jax.Array) -> jax.Array:
        """Crops and flips images; the dtype stays the same, and without `resized_crop` the shape.

        Args:
            keys: random keys `[N]`.
            images: `[N, H, W, C]`, 0 to 255.
        """
        crop_keys, flip_keys = jax.vmap(jax.random.split, out_axes=1)(keys)
        if self.crop_padding:
            images = random_crop(crop_keys, images, self.crop_padding)
        if self.resized_crop:
            height, width = images.shape[1:3]
            size = self.resized_crop, max(1, round(width * self.resized_crop / height))
            images = random_resized_crop(crop_keys, images, size)
        if self.flip:
            images = random_flip(flip_keys, images)
        return images
