"""Random crops and flips of a batch of images, on the device."""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax


def example_keys(key: jax.Array, rows: jax.Array) -> jax.Array:
    """One random key for each row of the global batch, `[N]`.

    The randomness of an image depends on its place in the batch only, not on its device.
    """
    return jax.vmap(lambda row: jax.random.fold_in(key, row))(rows)


def random_crop(keys: jax.Array, images: jax.Array, padding: int) -> jax.Array:
    """Pads with black and crops back to the same size at a uniformly random place.

    Args:
        keys: random keys `[N]`.
        images: `[N, H, W, C]`.
        padding: black pixels added on each side; the crop's offset is 0 to `2 * padding`.
    """
    sides = (padding, padding)
    padded = jnp.pad(images, ((0, 0), sides, sides, (0, 0)))
    offsets = jax.vmap(lambda key: jax.random.randint(key, (2,), 0, 2 * padding + 1))(keys)
    size = images.shape[1:]

    def crop(image, offset):
        return lax.dynamic_slice(image, (offset[0], offset[1], jnp.zeros_like(offset[0])), size)

    return jax.vmap(crop)(padded, offsets)


def random_flip(keys: jax.Array, images: jax.Array) -> jax.Array:
    """Mirrors each image left to right with probability 1/2; keys `[N]`, images `[N, H, W, C]`."""
    flip = jax.vmap(jax.random.bernoulli)(keys)
    return jnp.where(flip[:, None, None, None], images[:, :, ::-1], images)


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """The standard recipe for small images: padded random crop, then horizontal flip.

    Attributes:
        crop_padding: black pixels added on each side before the crop; 0 leaves the crop out.
        flip: mirror half of the images.
    """

    crop_padding: int = 0
    flip: bool = False

    def __post_init__(self):
        if self.crop_padding < 0:
            raise ValueError(f"crop_padding must be 0 or more, not {self.crop_padding}")

    def __call__(self, keys: jax.Array, images: jax.Array) -> jax.Array:
        """Augments `[N, H, W, C]` images with one key each; shape and dtype stay."""
        crop_keys, flip_keys = jax.vmap(jax.random.split, out_axes=1)(keys)
        if self.crop_padding:
            images = random_crop(crop_keys, images, self.crop_padding)
        if self.flip:
            images = random_flip(flip_keys, images)
        return images
