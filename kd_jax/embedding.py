"""Embeddings of whole sets of images by a trained network, at full or low resolution."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.data import Degradation, check_aspect
from kd_jax.data.order import sequential_batches
from kd_jax.devices import data_mesh, place, replicated, split
from kd_jax.errors import UsageError
from kd_jax.weights import Trained


class Embedder:
    """Makes embeddings, batch by batch on all devices; one program whatever the resolution."""

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
            trained: the network, as from `kd_jax.load`.
            degradation: how low resolutions are made; None is Pillow's bicubic filter both ways.
            batch_size: images at a time; rounded up to a multiple of the devices.
            num_devices: how many devices to use; None is all.
        """
        self._mesh = data_mesh(num_devices)
        self._batch_size = -(-batch_size // self._mesh.size) * self._mesh.size
        degradation = degradation or Degradation()
        view = trained.views.roles["student"]
        self._size, self._channels = view.size, len(view.normalisation.mean)
        whole, batches = replicated(self._mesh), split(self._mesh)
        self._variables = jax.device_put(trained.variables, whole)

        def run(variables, images, mirrored):
            images = jnp.where(mirrored, images[:, :, ::-1], images)
            return dataclasses.replace(trained, variables=variables)(images).embedding

        self._run = jax.jit(run, in_shardings=(whole, batches, whole), out_shardings=batches)

        def at(size: int | None):
            def prepare(images):
                images = images.astype(jnp.float32)  # always, so that the network is one program
                return images if size is None else degradation.to(images, size)

            return jax.jit(prepare, in_shardings=batches, out_shardings=batches)

        self._at = functools.cache(at)

    def __call__(
        self, images: np.ndarray, *, size: int | None = None, mirrored: bool = False
    ) -> np.ndarray:
        """Embeds images.

        Args:
            images: uint8 `[N, H, W, C]`.
            size: height of the low resolution to which they are reduced, and brought back, first;
                None leaves them as they are.
            mirrored: embed their mirror images instead. Reducing and mirroring may be done in
                either order.

        Returns:
            float32 `[N, D]`.

        Raises:
            UsageError: if there are no images, or the network would see them squeezed or enlarged.
        """
        if not len(images):
            raise UsageError("There are no images to embed: name a folder that holds some.")
        if images.shape[-1] != self._channels:
            raise UsageError(
                f"The network has learnt to see {self._channels} channels, but the images have"
                f" {images.shape[-1]}: bring them to as many."
            )
        check_aspect(self._size, images.shape[1:3], "use their middle, as with --size=112x96")
        if size is not None and not 1 <= size <= images.shape[1]:
            raise UsageError(
                f"Images {images.shape[1]} pixels high cannot be reduced to {size}: choose 1 to"
                f" {images.shape[1]}."
            )
        parts, batches = [], split(self._mesh)
        for index, where in sequential_batches(len(images), self._batch_size):
            batch = self._at(size)(place(images[index], batches))
            found = self._run(self._variables, batch, np.asarray(mirrored))
            parts.append(jax.device_get(found)[where])
        return np.concatenate(parts)
