"""Crops on the device: windows at random places, and random boxes that are resized."""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax

from kd_jax.data.preprocessing.resolution import to_gray_levels

SCALE = (0.08, 1.0)
"""Range of the area of `random_resized_crop`, that of torchvision."""
RATIO = (3 / 4, 4 / 3)
"""Range of its aspect ratio, that of torchvision."""
_ATTEMPTS = 10


def random_crop(keys: jax.Array, images: jax.Array, padding: int) -> jax.Array:
    """Pads images with black and crops them to the same size at uniformly random offsets.

    Args:
        keys: random keys `[N]`.
        images: `[N, H, W, C]`.
        padding: number of black pixels on each side; offsets are 0 to `2 * padding`.
    """
    height, width = images.shape[1:3]
    sides = (padding, padding)
    return random_window(keys, jnp.pad(images, ((0, 0), sides, sides, (0, 0))), (height, width))


def random_window(keys: jax.Array, images: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Cuts a window out of each image at uniformly random offsets, as torchvision's RandomCrop.

    Args:
        keys: random keys `[N]`.
        images: `[N, H, W, C]`.
        size: height and width of the windows, at most those of the images.
    """
    ends = jnp.asarray(images.shape[1:3], jnp.int32) - jnp.asarray(size, jnp.int32) + 1
    offsets = jax.vmap(lambda key: jax.random.randint(key, (2,), 0, ends))(keys)
    windows: jax.Array = lax.platform_dependent(
        images,
        offsets,
        cpu=functools.partial(slices, size=size),
        default=functools.partial(selects, size=size),
    )
    return windows


def center_window(images: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Cuts the center out of images `[N, H, W, C]`, as torchvision's CenterCrop.

    Args:
        images: the images.
        size: height and width of the window; a side that is longer than the image is left whole.
    """
    for axis, length in enumerate(size, start=1):
        rest = max(0, images.shape[axis] - length)
        start = round(rest / 2)
        images = lax.slice_in_dim(images, start, images.shape[axis] - rest + start, axis=axis)
    return images


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


def random_resized_crop(
    keys: jax.Array,
    images: jax.Array,
    size: tuple[int, int],
    scale: tuple[float, float] = SCALE,
    ratio: tuple[float, float] = RATIO,
) -> jax.Array:
    """Crops each image to a random box and resizes the box, as torchvision's RandomResizedCrop.

    See `random_boxes` and `resize_boxes`.

    Args:
        keys: random keys `[N]`.
        images: uint8 or float `[N, H, W, C]`, 0 to 255.
        size: height and width of the result.
        scale: least and greatest area of the box, as a fraction of the image.
        ratio: least and greatest aspect ratio of the box, width / height.

    Returns:
        `[N, *size, C]` of the same dtype, integer values 0 to 255.
    """
    height, width = images.shape[1:3]
    return resize_boxes(images, random_boxes(keys, (height, width), scale, ratio), size)


def random_boxes(
    keys: jax.Array,
    image_size: tuple[int, int],
    scale: tuple[float, float] = SCALE,
    ratio: tuple[float, float] = RATIO,
) -> jax.Array:
    """Draws the boxes of `random_resized_crop`.

    The area of a box is uniform, and so are the logarithm of its aspect ratio and its place. Ten
    boxes are drawn per image, and the first one that fits into the image is taken. If none fits, it
    is the largest box in the center whose aspect ratio is in the range.

    Args:
        keys: random keys `[N]`.
        image_size: height and width of the images.
        scale: least and greatest area of a box, as a fraction of the image.
        ratio: least and greatest aspect ratio of a box, width / height.

    Returns:
        Top, left, height and width, int32 `[N, 4]`.
    """
    height, width = image_size
    aspect = min(max(width / height, ratio[0]), ratio[1])
    central = (
        max(1, min(height, round(width / aspect))),
        max(1, min(width, round(height * aspect))),
    )
    low, high = math.log(ratio[0]), math.log(ratio[1])

    def draw(key: jax.Array) -> jax.Array:
        area_key, aspect_key, place_key = jax.random.split(key, 3)
        fractions = jax.random.uniform(area_key, (_ATTEMPTS,), jnp.float32, scale[0], scale[1])
        area = height * width * fractions
        aspects = jnp.exp(jax.random.uniform(aspect_key, (_ATTEMPTS,), jnp.float32, low, high))
        sides = jnp.stack([jnp.sqrt(area / aspects), jnp.sqrt(area * aspects)], axis=-1)
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

    The result is within 1 gray level of Pillow's `crop` and `resize`, as in torchvision. Pixels
    outside of the box have no influence, which they have at the borders of Pillow's
    `resize(box=...)`.

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
