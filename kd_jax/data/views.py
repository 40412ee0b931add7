"""What each network of a stage sees of a batch: the same images, each at its own resolution."""

import dataclasses
import zlib
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from kd_jax.data.augmentation import Augmentation, example_keys
from kd_jax.data.degradation import Degradation
from kd_jax.data.resolution import resize
from kd_jax.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation of each channel on the scale 0 to 1."""

    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    def __call__(self, images: jax.Array) -> jax.Array:
        """Centres and scales float images `[N, H, W, C]`, 0 to 255."""
        mean = jnp.asarray(self.mean, images.dtype) * 255
        # A channel without any contrast has deviation 0 and stays 0 after centring.
        scale = 1 / (255 * jnp.maximum(jnp.asarray(self.deviation, images.dtype), 1e-6))
        return (images - mean[None, None, None]) * scale[None, None, None]


@dataclasses.dataclass(frozen=True)
class View:
    """How a network sees images.

    Attributes:
        size: (height, width).
        normalisation: of its input; a network keeps that of the images it was first trained on.
        degradation: what happens to some of the images in training, before they are brought to
            `size`; None leaves all sharp.
    """

    size: tuple[int, int]
    normalisation: Normalisation
    degradation: Degradation | None = None


@dataclasses.dataclass(frozen=True)
class Views:
    """Turns a batch of stored images into one normalised view for each role.

    The batch is augmented once at full resolution; every role then gets its resolution of the
    same augmented images, and roles with equal degradations see the same degraded ones; with
    `own_augmentation` each sees a copy augmented and degraded for itself.

    Attributes:
        roles: how each role sees them.
        augmentation: what training adds; evaluation sees the images as they are.
        filter: resampling filter, a name of `kd_jax.data.FILTERS`.
        own_augmentation: augment the batch anew for every role.
    """

    roles: Mapping[str, View]
    augmentation: Augmentation = dataclasses.field(default_factory=Augmentation)
    filter: str = "bicubic"
    own_augmentation: bool = False

    def training(self, key: jax.Array, images: jax.Array, rows: jax.Array) -> dict[str, jax.Array]:
        """Augmented views.

        Args:
            key: random key of the step.
            images: uint8 `[N, H, W, C]`, this device's part of the batch.
            rows: places of these images in the global batch, int32 `[N]`.

        Returns:
            For each role float32 `[N, *size, C]`, normalised.
        """

        def keys(name: str) -> jax.Array:
            return example_keys(jax.random.fold_in(key, zlib.crc32(name.encode())), rows)

        if self.own_augmentation:
            own = {
                role: self.augmentation(keys(f"augmentation/{role}"), images) for role in self.roles
            }
            return {
                role: self._view(view, own[role], keys(f"degradation/{role}"))
                for role, view in self.roles.items()
            }
        augmented = self.augmentation(example_keys(key, rows), images)
        return self._each_view(augmented, keys("degradation"))

    def evaluation(self, images: jax.Array) -> dict[str, jax.Array]:
        """Views of the images as they are: uint8 `[N, H, W, C]` to float32 for each role."""
        return self._each_view(images, None)

    def _each_view(self, images: jax.Array, keys: jax.Array | None) -> dict[str, jax.Array]:
        """The views of the same images; roles with equal views share one."""
        seen = {view: self._view(view, images, keys) for view in dict.fromkeys(self.roles.values())}
        return {role: seen[view] for role, view in self.roles.items()}

    def _view(self, view: View, images: jax.Array, keys: jax.Array | None) -> jax.Array:
        """What a role sees of images; `keys` `[N]` draw which are degraded, None leaves all."""
        images = images.astype(jnp.float32)
        if view.degradation is not None and keys is not None:
            images = view.degradation(keys, images)
        return view.normalisation(resize(images, view.size, self.filter))


def check_aspect(size: tuple[int, int], image_size: tuple[int, int], remedy: str) -> None:
    """Raises `UsageError` for images that would be squeezed.

    Args:
        size: (height, width) of what a network has learnt to see.
        image_size: (height, width) of the images.
        remedy: what the user may do.
    """
    height, width = size
    if max(1, round(image_size[1] * height / image_size[0])) != width:
        raise UsageError(
            f"Images of {image_size[0]}x{image_size[1]} pixels would be squeezed to what the"
            f" network has learnt to see, {height}x{width}: {remedy}."
        )


def view_size(resolution: int | None, image_size: tuple[int, int], key: str) -> tuple[int, int]:
    """The (height, width) of a view.

    Args:
        resolution: height of the view, or None for the stored size; the width follows the
            stored images' aspect ratio.
        image_size: (height, width) of the stored images.
        key: config key to name in an error.
    """
    height, width = image_size
    if resolution is None:
        return height, width
    if not 1 <= resolution <= height:
        raise UsageError(
            f"{key} = {resolution} is impossible: choose 1 to {height}, the height of the images."
        )
    return resolution, max(1, round(width * resolution / height))
