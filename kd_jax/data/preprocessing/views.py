"""Views: the input of each network of a stage, the same images at different resolutions."""

import dataclasses
import zlib
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from kd_jax.core.errors import UsageError
from kd_jax.data.preprocessing.augmentation import Augmentation, example_keys
from kd_jax.data.preprocessing.crops import center_window
from kd_jax.data.preprocessing.degradation import Degradation
from kd_jax.data.preprocessing.resolution import resize


@dataclasses.dataclass(frozen=True)
class Normalization:
    """Centers and scales the channels of images.

    Attributes:
        mean: mean of each channel, scaled to 0 to 1.
        std: standard deviation of each channel, scaled to 0 to 1.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, images: jax.Array) -> jax.Array:
        """Normalizes float images `[N, H, W, C]`, 0 to 255."""
        mean = jnp.asarray(self.mean, images.dtype) * 255
        # A channel without contrast has std 0 and is 0 after centering.
        scale = 1 / (255 * jnp.maximum(jnp.asarray(self.std, images.dtype), 1e-6))
        return (images - mean[None, None, None]) * scale[None, None, None]


@dataclasses.dataclass(frozen=True)
class View:
    """The input of a network.

    Attributes:
        size: height and width of the input.
        normalization: normalization of the input; a network keeps the one that it was first trained
            with.
        degradation: degradation of random training images, before they are resampled to `size`;
            None degrades none.
    """

    size: tuple[int, int]
    normalization: Normalization
    degradation: Degradation | None = None


@dataclasses.dataclass(frozen=True)
class Views:
    """Turns a batch of stored images into one normalized view per role.

    The batch is augmented once at full resolution. Every role gets the same augmented images at its
    resolution. Roles with equal degradations get the same degraded images. With `own_augmentation`
    each role gets a copy with its own random augmentation and degradation.

    Attributes:
        roles: view of each role.
        augmentation: augmentation of training images; images for evaluation are not augmented, but
            with its `crop` they are cropped to their centers.
        filter: resampling filter, a name in `kd_jax.data.preprocessing.FILTERS`.
        own_augmentation: augment the batch separately for every role.
        center: fraction of height and width that evaluation sees, in the center of the images, for
            images of any size; 1 leaves this to `augmentation`.
    """

    roles: Mapping[str, View]
    augmentation: Augmentation = dataclasses.field(default_factory=Augmentation)
    filter: str = "bicubic"
    own_augmentation: bool = False
    center: float = 1.0

    def training(
        self, key: jax.Array, images: jax.Array, rows: jax.Array, index: jax.Array | None = None
    ) -> dict[str, jax.Array]:
        """Returns the augmented views.

        Args:
            key: random key of the step.
            images: uint8 or float `[N, H, W, C]`, 0 to 255, this device's part of the batch. After
                `mixup` they are float.
            rows: rows of these images in the global batch, int32 `[N]`.
            index: positions of these images in the training set, int32 `[N]`, which a degradation
                with `fixed_seed` needs.

        Returns:
            Normalized images by role, float32 `[N, *size, C]`.
        """

        def keys(name: str) -> jax.Array:
            return example_keys(jax.random.fold_in(key, zlib.crc32(name.encode())), rows)

        if self.own_augmentation:
            own = {
                role: self.augmentation(keys(f"augmentation/{role}"), images) for role in self.roles
            }
            return {
                role: self._view(view, own[role], keys(f"degradation/{role}"), index)
                for role, view in self.roles.items()
            }
        augmented = self.augmentation(example_keys(key, rows), images)
        return self._each_view(augmented, keys("degradation"), index)

    def evaluation(self, images: jax.Array) -> dict[str, jax.Array]:
        """Returns the views without augmentation: uint8 `[N, H, W, C]` to float32 by role."""
        seen = self.augmentation.evaluated(images)
        if self.center < 1:
            height, width = (max(1, round(self.center * side)) for side in seen.shape[1:3])
            seen = center_window(seen, (height, width))
        return self._each_view(seen, None, None)

    def _each_view(
        self, images: jax.Array, keys: jax.Array | None, index: jax.Array | None
    ) -> dict[str, jax.Array]:
        """Returns the views of the same images by role; equal views are computed once."""
        views = {
            view: self._view(view, images, keys, index)
            for view in dict.fromkeys(self.roles.values())
        }
        return {role: views[view] for role, view in self.roles.items()}

    def _view(
        self, view: View, images: jax.Array, keys: jax.Array | None, index: jax.Array | None
    ) -> jax.Array:
        """Returns one view of images.

        `keys` and `index`, `[N]`, are for the degradation. Without `keys` no image is degraded.
        """
        images = images.astype(jnp.float32)
        if view.degradation is not None and keys is not None:
            images = view.degradation(keys, images, index)
        return view.normalization(resize(images, view.size, self.filter))


def check_aspect(size: tuple[int, int], image_size: tuple[int, int], remedy: str) -> None:
    """Raises `UsageError` for images whose aspect ratio is not that of a network's input.

    Args:
        size: height and width of the input of the network.
        image_size: height and width of the images.
        remedy: advice at the end of the error.
    """
    height, width = size
    if max(1, round(image_size[1] * height / image_size[0])) != width:
        raise UsageError(
            f"Images of {image_size[0]}x{image_size[1]} pixels would be squeezed to the input size"
            f" of the network, {height}x{width}: {remedy}."
        )


def view_size(
    resolution: int | None, image_size: tuple[int, int], key: str, *, enlarged: int = 0
) -> tuple[int, int]:
    """Returns the height and width of a view.

    Args:
        resolution: height of the view; the width keeps the aspect ratio of the stored images. None
            is the stored size.
        image_size: height and width of the stored images.
        key: config key of the resolution, for the error.
        enlarged: height of the augmented images, where it is more than the stored height.

    Raises:
        UsageError: if the resolution is less than 1 or more than these heights.
    """
    height, width = image_size
    if resolution is None:
        return height, width
    largest = max(height, enlarged)
    if not 1 <= resolution <= largest:
        raise UsageError(
            f"{key} = {resolution} is impossible: choose 1 to {largest}, the height of the images."
        )
    return resolution, max(1, round(width * resolution / height))
