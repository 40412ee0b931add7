"""Devices: the mesh over which batches are split, and the placement of arrays."""

import functools
import os

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from kd_jax.core.errors import UsageError

AXIS = "data"


def data_mesh(num_devices: int | None = None) -> Mesh:
    """Makes a mesh of the first `num_devices` devices (default: all) with the one axis `"data"`.

    The axis is `Auto`: XLA places the collectives. Losses that couple the batch and batch norm
    therefore see the global batch, and their code does not mention devices.
    """
    available = jax.devices()
    if num_devices is not None and not 1 <= num_devices <= len(available):
        raise UsageError(
            f"num_devices = {num_devices} is impossible: choose 1 to {len(available)}, or None for"
            " all."
        )
    devices = available[:num_devices]
    return jax.make_mesh((len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)


def platform(mesh: Mesh) -> str:
    """Returns the platform of the devices: `cpu`, `gpu`, `tpu` or the name of a plugin."""
    name: str = mesh.devices.flat[0].platform
    return name


def memory_limit(mesh: Mesh) -> int | None:
    """Returns the bytes of memory of each device, or None where it is the memory of the host."""
    statistics = mesh.local_devices[0].memory_stats()
    return None if statistics is None else statistics.get("bytes_limit")


def keep_programs(folder: str | os.PathLike[str]) -> None:
    """Lets JAX keep compiled programs in a folder, from which later processes read them.

    A folder that the user has chosen (`JAX_COMPILATION_CACHE_DIR`) stays. The programs of a CPU are
    not kept: another machine could not run all of its instructions.
    """
    option = "jax_compilation_cache_dir"
    if getattr(jax.config, option) is None and jax.default_backend() != "cpu":
        jax.config.update(option, os.fspath(folder))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding in which every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """Returns the sharding in which array axis `axis` is split over the devices."""
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, AXIS))


def place(array: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """Puts a host array on the devices; every process holds the whole array.

    Each process copies only the parts of its own devices.
    """
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def any_process(*decisions: bool) -> tuple[bool, ...]:
    """Returns, for each decision, whether any process has made it."""
    if jax.process_count() == 1:
        return decisions
    everyone = multihost_utils.process_allgather(np.asarray(decisions))
    return tuple(everyone.any(axis=0).tolist())


class Agreement:
    """Makes the processes of a run decide alike.

    Clocks and signals differ between processes, but the steps must not.
    """

    def __init__(self) -> None:
        self._gathered: jax.Array | None = None

    def __call__(self, *values: float) -> tuple[float, ...]:
        """Returns the greatest of each value over all processes.

        With several processes these are the values of the call before, 0 at first: the devices
        gather them between two steps, and no process waits for the steps that run.
        """
        if jax.process_count() == 1:
            return values
        before, self._gathered = self._gathered, _greatest(np.asarray(values, np.float32))
        if before is None:
            return (0.0,) * len(values)
        return tuple(np.asarray(before.addressable_data(0)).tolist())


def _greatest(values: np.ndarray) -> jax.Array:
    """Starts to compute the maximum over the processes of `[K]`, on one device of each."""
    devices = {device.process_index: device for device in reversed(jax.devices())}
    mesh = Mesh(np.array([devices[i] for i in sorted(devices)]), (AXIS,))
    everyone = jax.make_array_from_callback(
        (mesh.size, len(values)), split(mesh), lambda index: values[None]
    )
    return _columns_max(everyone, replicated(mesh))


@functools.partial(jax.jit, static_argnums=1)
def _columns_max(rows: jax.Array, whole: NamedSharding) -> jax.Array:
    return jax.lax.with_sharding_constraint(rows.max(axis=0), whole)


def check_divisible(batch_size: int, mesh: Mesh, key: str) -> None:
    """Raises `UsageError` if a batch cannot be split evenly over the devices."""
    if batch_size % mesh.size:
        lower = batch_size // mesh.size * mesh.size
        choices = " or ".join(str(n) for n in (lower, lower + mesh.size) if n)
        raise UsageError(
            f"{key} = {batch_size} does not divide over {mesh.size} devices: choose {choices}."
        )
