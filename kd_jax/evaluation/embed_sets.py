"""Embeddings of whole sets of images, batch by batch on all devices."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh

from kd_jax.core.devices import place, replicated, split
from kd_jax.core.errors import UsageError
from kd_jax.data.loaders import Loader, batch_of
from kd_jax.data.order import sequential_batches
from kd_jax.data.preprocessing import Degradation
from kd_jax.data.resident import Resident

PyTree = Any


class SetEmbedder:
    """Applies an embedding function to whole sets of images.

    The function is compiled once, for all sets of one image shape and all low resolutions. The last
    batch is padded, and the padding is left out of the result.
    """

    def __init__(
        self,
        embed: Callable[[PyTree, jax.Array], PyTree],
        mesh: Mesh,
        batch_size: int,
        degradation: Degradation | None = None,
    ):
        """Prepares the compilation; nothing is computed yet.

        Args:
            embed: from variables and images, uint8 `[B, H, W, C]`, to an embedding `[B, D]`, or to
                a pytree of such arrays, for example one per network. It is traced by `jax.jit`.
            mesh: devices over which a batch is split; each has a copy of the variables.
            batch_size: number of images per batch, over all devices; it is rounded up to a multiple
                of the number of devices.
            degradation: blur and filters of low resolutions; None is the default of `Degradation`,
                which also degrades training images.
        """
        self._batch_size = -(-batch_size // mesh.size) * mesh.size
        filters = degradation or Degradation()
        whole, self._batches = replicated(mesh), split(mesh)

        def run(variables: PyTree, images: jax.Array, mirrored: jax.Array) -> PyTree:
            images = jnp.where(mirrored, images[:, :, ::-1], images)
            embeddings = embed(variables, images)
            # Each device embeds its part of the batch; then every process gets the whole batch.
            return lax.with_sharding_constraint(embeddings, self._batches)

        def reduce(images: jax.Array, size: int) -> jax.Array:
            # The result has gray levels 0 to 255, so that uint8 keeps it exactly.
            return filters.to(images.astype(jnp.float32), size).astype(jnp.uint8)

        def take(images: Resident | None, rows: dict[str, jax.Array]) -> Any:
            batch = batch_of(images, rows)
            return batch["image"], batch["label"]

        self._run = jax.jit(run, in_shardings=(whole, self._batches, whole), out_shardings=whole)
        self._reduce = jax.jit(
            reduce, static_argnums=1, in_shardings=self._batches, out_shardings=self._batches
        )
        self._take = jax.jit(
            take, in_shardings=(None, self._batches), out_shardings=(self._batches, whole)
        )

    def __call__(
        self,
        variables: PyTree,
        images: np.ndarray,
        *,
        size: int | None = None,
        mirrored: bool = False,
    ) -> PyTree:
        """Embeds images in host memory.

        Args:
            variables: first argument of the embedding function.
            images: uint8 `[N, H, W, C]`.
            size: height of the low resolution to which images are reduced before they are enlarged
                to their size again; None leaves them as they are.
            mirrored: embed the mirror images instead. The order of reduction and mirroring does
                not change the result.

        Returns:
            The result of the embedding function with N rows, in host memory.

        Raises:
            UsageError: if there are no images, they are not uint8 `[N, H, W, C]`, or they are lower
                than `size`.
        """
        images = as_images(images)
        if size is not None:
            check_size(size, images)
        parts = []
        for index, where in sequential_batches(len(images), self._batch_size):
            batch = place(images[index], self._batches)
            if size is not None:
                batch = self._reduce(batch, size)
            embeddings = jax.device_get(self._run(variables, batch, np.asarray(mirrored)))
            parts.append(_rows(embeddings, where))
        return _joined(parts)

    def embed_loader(
        self, variables: PyTree, loader: Loader, *, size: int | None = None
    ) -> tuple[PyTree, np.ndarray]:
        """Embeds all images of a loader.

        Args:
            variables: first argument of the embedding function.
            loader: labeled images.
            size: height of the low resolution, as for images in host memory.

        Returns:
            The result of the embedding function with N rows, and the labels, int32 `[N]`, both in
            host memory and in the order of the loader.

        Raises:
            UsageError: if the images are lower than `size`.
        """
        parts = []
        for rows in loader.batches(self._batch_size):
            placed = {name: place(array, self._batches) for name, array in rows.items()}
            images, labels = self._take(loader.images, placed)
            if size is not None:
                check_size(size, images)
                images = self._reduce(images, size)
            embeddings = self._run(variables, images, np.asarray(False))
            parts.append(_rows(jax.device_get((embeddings, labels)), rows["where"]))
        return _joined(parts)


def as_images(images: np.ndarray) -> np.ndarray:
    """Returns images as an array `[N, H, W, C]`; raises `UsageError` if they cannot be embedded."""
    images = np.asarray(images)
    if not len(images):
        raise UsageError("There are no images to embed: name a folder that holds some.")
    if images.dtype != np.uint8 or images.ndim != 4:
        raise UsageError(
            f"Images must be uint8 [N, H, W, C] with values 0 to 255, not {images.dtype}"
            f" {list(images.shape)}: convert them."
        )
    return images


def check_size(size: int, images: np.ndarray | jax.Array) -> None:
    """Raises `UsageError` if images `[N, H, W, C]` cannot be reduced to the height `size`."""
    height = images.shape[1]
    if not 1 <= size <= height:
        raise UsageError(
            f"Images {height} pixels high cannot be reduced to {size}: choose 1 to {height}."
        )


def _rows(tree: PyTree, where: np.ndarray) -> PyTree:
    return jax.tree.map(lambda array: array[where], tree)


def _joined(parts: list[PyTree]) -> PyTree:
    return jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)
