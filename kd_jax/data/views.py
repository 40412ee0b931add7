"""What each network of a stage sees of a batch: the same images, each at its own resolution."""

import dataclasses
import zlib
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from kd_jax.data.augmentation import Augmentation, example_keys
from kd_jax.data.resolution import FILTERS, resize
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
    """

    size: tuple[int, int]
    normalisation: Normalisation


@dataclasses.dataclass(frozen=True)
class Views:
    """Turns a batch of stored images into one normalised view for each role.

    The batch is augmented once at full resolution; every role then gets its resolution of the
    same augmented images, or, with `own_augmentation`, of a copy augmented for itself.

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
        if not self.own_augmentation:
            return self.evaluation(self.augmentation(example_keys(key, rows), images))

        def own(role: str) -> jax.Array:
            return jax.random.fold_in(key, zlib.crc32(f"augmentation/{role}".encode()))

        return {
            role: self._view(view, self.augmentation(example_keys(own(role), rows), images))
            for role, view in self.roles.items()
        }

    def evaluation(self, images: jax.Array) -> dict[str, jax.Array]:
        """Views of the images as they are: uint8 `[N, H, W, C]` to float32 for each role."""
        seen = {view: self._view(view, images) for view in set(self.roles.values())}
        return {role: seen[view] for role, view in self.roles.items()}

    def _view(self, view: View, images: jax.Array) -> jax.Array:
        resized = resize(images.astype(jnp.float32), view.size, self.filter)
        return view.normalisation(resized)


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


def check_filter(filter: str) -> None:
    """Raises `UsageError` for a filter that is not in `FILTERS`."""
    if filter not in FILTERS:
        raise UsageError(f"data.filter {filter!r} is unknown: choose one of {sorted(FILTERS)}.")
