"""Embeddings of whole sets of images by a trained network, at full or low resolution."""

import dataclasses
from typing import Any

import jax
import numpy as np

from kd_jax.core.devices import data_mesh, replicated
from kd_jax.core.errors import UsageError
from kd_jax.data.preprocessing import Degradation, check_aspect
from kd_jax.evaluation.embed_sets import SetEmbedder, as_images
from kd_jax.pretrained.info import NetworkInfo
from kd_jax.pretrained.weights import Trained


class Embedder:
    """Computes embeddings batch by batch on all devices, with one program for all resolutions."""

    def __init__(
        self,
        trained: Trained,
        *,
        degradation: Degradation | None = None,
        batch_size: int = 256,
        num_devices: int | None = None,
    ):
        """Puts a copy of the network on every device.

        Args:
            trained: trained network, as from `kd_jax.pretrained.weights.load`.
            degradation: filters and blur of low resolutions; None is the default of `Degradation`.
            batch_size: number of images per batch, over all devices; it is rounded up to a multiple
                of the number of devices.
            num_devices: number of devices to use; None is all.
        """
        mesh = data_mesh(num_devices)
        self._info = trained.info
        self._variables = jax.device_put(trained.variables, replicated(mesh))

        def embed(variables: Any, images: jax.Array) -> jax.Array:
            return dataclasses.replace(trained, variables=variables).outputs(images).embedding

        self._embed = SetEmbedder(embed, mesh, batch_size, degradation)

    def __call__(
        self, images: np.ndarray, *, size: int | None = None, mirrored: bool = False
    ) -> np.ndarray:
        """Embeds images.

        Args:
            images: uint8 `[N, H, W, C]`, or `[N, H, W]` for a network of gray images.
            size: height of the low resolution to which images are reduced before they are enlarged
                to their size again; None leaves them as they are.
            mirrored: embed the mirror images instead. The order of reduction and mirroring does
                not change the result.

        Returns:
            Embeddings, float32 `[N, D]`.

        Raises:
            UsageError: if there are no images; if they are not uint8 `[N, H, W, C]`; if they have
                other channels or another aspect ratio than the input of the network; if they are
                lower than `size` or smaller than the input of the network.
        """
        images = check_images(images, self._info)
        height, width = self._info.size
        if images.shape[1] < height or images.shape[2] < width:
            raise UsageError(
                f"Images of {images.shape[1]}x{images.shape[2]} pixels are smaller than the input"
                f" of the network, {height}x{width}: enlarge them first."
            )
        return self._embed(self._variables, images, size=size, mirrored=mirrored)


def check_images(images: np.ndarray, info: NetworkInfo) -> np.ndarray:
    """Returns images that a network can use; raises `UsageError` for others.

    Args:
        images: uint8 `[N, H, W, C]`, or `[N, H, W]` for a network of gray images.
        info: description of the network.
    """
    images, channels = np.asarray(images), len(info.mean)
    if images.ndim == 3 and channels == 1:
        images = images[..., None]
    images = as_images(images)
    if channels == 1 and images.shape[-1] == 3 and (images == images[..., :1]).all():
        images = images[..., :1]  # files of gray images are read as RGB
    if images.shape[-1] != channels:
        raise UsageError(
            f"The network was trained on images with {channels} channel(s), but these images have"
            f" {images.shape[-1]}: convert them."
        )
    check_aspect(info.size, images.shape[1:3], "use their center, as with --size=112x96")
    return images
