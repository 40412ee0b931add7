"""Logits of whole sets of images by a trained network, at full or low resolution."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.core.devices import data_mesh, replicated
from kd_jax.core.errors import UsageError
from kd_jax.data.preprocessing import resize
from kd_jax.evaluation.embed_sets import SetEmbedder
from kd_jax.pretrained.embedder import check_images
from kd_jax.pretrained.weights import Trained


class Classifier:
    """Computes logits batch by batch on all devices."""

    def __init__(self, trained: Trained, *, batch_size: int = 256, num_devices: int | None = None):
        """Puts a copy of the network on every device.

        Args:
            trained: trained network, as from `kd_jax.load`.
            batch_size: number of images per batch, over all devices; it is rounded up to a multiple
                of the number of devices.
            num_devices: number of devices to use; None is all.
        """
        mesh = data_mesh(num_devices)
        self._info = trained.info
        self._variables = jax.device_put(trained.variables, replicated(mesh))

        def at(size: int | None) -> SetEmbedder:
            def logits(variables: Any, images: jax.Array) -> jax.Array:
                if size is not None:
                    low = size, max(1, round(images.shape[2] * size / images.shape[1]))
                    images = resize(images.astype(jnp.float32), low, trained.info.filter)
                return dataclasses.replace(trained, variables=variables).outputs(images).logits

            return SetEmbedder(logits, mesh, batch_size)

        self._at = functools.cache(at)

    def __call__(self, images: np.ndarray, *, size: int | None = None) -> np.ndarray:
        """Classifies images.

        Args:
            images: uint8 `[N, H, W, C]`, or `[N, H, W]` for a network of gray images.
            size: height to which the images are reduced first, by the filter of the network. The
                network sees them at its own resolution, enlarged if they are smaller. None leaves
                the images as they are.

        Returns:
            Logits, float32 `[N, num_classes]`.

        Raises:
            UsageError: if the images do not fit the network, or are lower than `size`.
        """
        images = check_images(images, self._info)
        if size is not None and not 1 <= size <= images.shape[1]:
            raise UsageError(
                f"Images of height {images.shape[1]} cannot be reduced to {size}: choose 1 to"
                f" {images.shape[1]}."
            )
        return self._at(size)(self._variables, images)
