"""Sets of images on the devices: a copy on every device, or the rows split over the devices."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from kd_jax.core.devices import AXIS, any_process, memory_limit, place, replicated, split
from kd_jax.core.errors import UsageError
from kd_jax.data.images import ImageSet

_SHARE = 0.25
"""Fraction of the memory of a device that one set of images may take."""
_GIB = 2**30


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["pixels", "labels"],
    meta_fields=["shape", "mesh"],
)
@dataclasses.dataclass(frozen=True)
class Resident:
    """A whole set of images on the devices.

    An image is one row of pixels: XLA would give `[N, H, W, C]` another layout on a TPU, and copy
    the whole set in every call.

    Attributes:
        pixels: uint8 `[N, H * W * C]`. Rows of zeros follow if the devices share the rows and their
            number does not divide N.
        labels: int32 `[N]`.
        shape: height, width and number of channels of every image.
        mesh: devices that share the rows of `pixels`; None if every device has all of them.
    """

    pixels: jax.Array
    labels: jax.Array
    shape: tuple[int, int, int]
    mesh: Mesh | None = None

    def __getitem__(self, index: jax.Array) -> dict[str, jax.Array]:
        """Returns `image` uint8 `[K, H, W, C]` and `label` int32 `[K]` of the rows in `index`.

        If the devices share the rows, their number must divide K.
        """
        if self.mesh is None:
            rows = self.pixels[index]
        else:
            part = PartitionSpec(AXIS)
            rows = jax.shard_map(_exchange, mesh=self.mesh, in_specs=part, out_specs=part)(
                self.pixels, index
            )
        image = rows.reshape(*index.shape, *self.shape)
        return {"image": image, "label": self.labels[index]}


def _exchange(pixels: jax.Array, index: jax.Array) -> jax.Array:
    """Returns the rows `[K, P]` that this device wants, of which other devices have most.

    Each device sends one row per image of the global batch: the image if it has it, or zeros. That
    is K P bytes times the number of devices, whatever the number of images in the set.

    Args:
        pixels: rows that this device has, uint8 `[N / devices, P]`.
        index: positions of the rows in the whole set, int32 `[K]`.
    """
    wanted = lax.all_gather(index, AXIS)  # [devices, K]
    here = wanted - lax.axis_index(AXIS) * len(pixels)
    has = (here >= 0) & (here < len(pixels))
    rows = jnp.where(has[..., None], pixels[jnp.where(has, here, 0)], 0)
    return lax.all_to_all(rows, AXIS, 0, 0).max(0)


def fits(num_bytes: int, memory: float | None) -> bool:
    """Returns whether a set may be in a memory: whether it takes a quarter of it, or less."""
    return memory is None or num_bytes <= _SHARE * memory


def put(images: ImageSet, mesh: Mesh) -> Resident:
    """Puts a set on the devices.

    Every device gets a copy if a quarter of its memory is enough for it. Otherwise the devices
    share the images.

    Raises:
        UsageError: if a quarter of the memory of all devices is not enough.
    """
    pixels = images.images.reshape(len(images), -1)
    memory = memory_limit(mesh)
    everything = None if memory is None else mesh.size * memory
    shared, too_large = any_process(
        not fits(pixels.nbytes, memory), not fits(pixels.nbytes, everything)
    )
    if too_large and everything is not None:
        raise UsageError(
            f"{len(images)} images need {pixels.nbytes / _GIB:.1f} GiB on the devices, but a"
            f" quarter of the memory of {mesh.size} device{'s' * (mesh.size > 1)} is"
            f" {_SHARE * everything / _GIB:.1f} GiB: set data.stream = True, or use more devices."
        )
    labels = place(images.labels, replicated(mesh))
    if not shared:
        return Resident(place(pixels, replicated(mesh)), labels, images.image_shape)
    length = -(-len(images) // mesh.size)

    def part(index: Any) -> np.ndarray:
        rows = pixels[index[0]]
        return np.pad(rows, ((0, length - len(rows)), (0, 0)))

    shape = (length * mesh.size, pixels.shape[1])
    split_rows = jax.make_array_from_callback(shape, split(mesh), part)
    return Resident(split_rows, labels, images.image_shape, mesh)
