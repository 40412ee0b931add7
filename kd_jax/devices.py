"""Devices: one mesh axis over which batches are spread, and how arrays get there."""

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from kd_jax.errors import UsageError

AXIS = "data"


def data_mesh(num_devices: int | None = None) -> Mesh:
    """A mesh of the first `num_devices` devices (default all) with the one axis `"data"`.

    The axis is `Auto`: XLA places the collectives, so losses that couple the batch and batch norm
    see the global batch without a word in their code.
    """
    available = jax.devices()
    if num_devices is not None and not 1 <= num_devices <= len(available):
        raise UsageError(
            f"num_devices = {num_devices} is impossible: choose 1 to {len(available)}, or None for"
            " all."
        )
    devices = available[:num_devices]
    return jax.make_mesh((len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """Array axis `axis` is spread over the devices."""
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, AXIS))


def place(array: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """Puts a host array that every process holds whole on the devices.

    Each process copies only what its own devices hold.
    """
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def any_process(*decisions: bool) -> tuple[bool, ...]:
    """Each decision, if any process has made it: clocks and signals differ, steps must not."""
    if jax.process_count() == 1:
        return decisions
    everyone = multihost_utils.process_allgather(np.asarray(decisions))
    return tuple(everyone.any(axis=0).tolist())


def check_divisible(batch_size: int, mesh: Mesh, key: str) -> None:
    """Raises `UsageError` if a batch does not divide evenly over the devices."""
    if batch_size % mesh.size:
        lower = batch_size // mesh.size * mesh.size
        choices = " or ".join(str(n) for n in (lower, lower + mesh.size) if n)
        raise UsageError(
            f"{key} = {batch_size} does not divide over {mesh.size} devices: choose {choices}."
        )
