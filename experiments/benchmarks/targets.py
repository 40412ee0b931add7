"""Accelerators to compile for without having one: TPU slices, and GPUs by their description."""

import os
import re
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from experiments.benchmarks import peaks
from kd_jax.core.devices import AXIS
from kd_jax.core.errors import UsageError, check_choice


class Chip(NamedTuple):
    """An accelerator, by the data of its maker.

    Attributes:
        operations: dense bfloat16 operations per second, of matrix units.
        vectors: float32 operations per second outside of matrix units: on a TPU, 8 x 128 lanes with
            4 units in each core.
        bandwidth: bytes per second from and to its memory.
        memory: bytes of memory.
        clock: cycles per second of its cores, for the compiler's estimates.
    """

    operations: float
    vectors: float
    bandwidth: float
    memory: float
    clock: float


CHIPS = {
    "v4": Chip(peaks.BFLOAT16["TPU v4"], 2 * 4096 * 1.05e9, 1228e9, 32 * 2**30, 1.05e9),
    "v5e": Chip(peaks.BFLOAT16["TPU v5e"], 4096 * 1.5e9, 819e9, 16 * 2**30, 1.5e9),
    "v5p": Chip(peaks.BFLOAT16["TPU v5p"], 2 * 4096 * 1.75e9, 2765e9, 95 * 2**30, 1.75e9),
    "v6e": Chip(peaks.BFLOAT16["TPU v6e"], 4096 * 1.75e9, 1640e9, 32 * 2**30, 1.75e9),
    "h100": Chip(
        peaks.BFLOAT16["NVIDIA H100"], peaks.FLOAT32["NVIDIA H100"], 3350e9, 80 * 2**30, 1.98e9
    ),
}
"""Chips by the first part of `--topology`, or by `--target`."""


class Target(NamedTuple):
    """Devices to compile for: their mesh, the chip, and a name for the results."""

    mesh: Mesh
    chip: Chip
    name: str


def tpu(topology: str) -> Target:
    """Returns a TPU slice such as `v5e:2x2`.

    Raises:
        UsageError: if there is no such slice, or libtpu is not installed.
    """
    name, _, shape = topology.partition(":")
    check_choice(name, [chip for chip in CHIPS if chip.startswith("v")], "--topology")
    if not re.fullmatch(r"[1-9]\d?(x[1-9]\d?){1,2}", shape):
        raise UsageError(f"--topology={topology} must be CHIP:SHAPE, such as v5e:2x2.")
    # Without these, libtpu asks the metadata server of a cloud, and locks the machine's TPUs.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    options = {}
    if all(length == "1" for length in shape.split("x")):
        options["chips_per_host_bounds"] = [1, 1, 1]
    devices = _devices("tpu", topology, "pip install 'kd_jax[aot]'", **options)
    return Target(_mesh(devices), CHIPS[name], f"{len(devices)} x {devices[0].device_kind}")


def cuda(target: str, description: str | None = None) -> Target:
    """Returns one GPU.

    Args:
        target: name of the GPU, such as `h100`.
        description: path of XLA's description of the GPU (`gpu_target_config`, in text form).

    Raises:
        UsageError: if the GPU is unknown, or JAX' plugin for CUDA is not installed.
    """
    check_choice(target, [chip for chip in CHIPS if not chip.startswith("v")], "--target")
    path = Path(description) if description else Path(__file__).with_name(f"{target}.txtpb")
    try:
        text = path.read_text()
    except (OSError, ValueError) as error:
        raise UsageError(f"--description={path} cannot be read: {error}.") from error
    devices = _devices(
        "cuda",
        "1x1x1",
        "pip install 'jax[cuda12]'",
        topology="1x1x1",
        target_config=text,
    )
    return Target(_mesh(devices), CHIPS[target], target)


def _devices(platform: str, name: str, remedy: str, **options: Any) -> list[jax.Device]:
    from jax.experimental import topologies

    try:
        found = topologies.get_topology_desc(platform=platform, topology_name=name, **options)
    except Exception as error:  # the compilers raise errors of many classes
        reason = " ".join(str(error).split())[:200]
        raise UsageError(
            f"The compiler for {platform} {name} cannot be loaded ({reason}): run `{remedy}`,"
            " or choose another topology."
        ) from error
    return list(found.devices)


def _mesh(devices: list[jax.Device]) -> Mesh:
    return Mesh(np.asarray(devices), (AXIS,), axis_types=(AxisType.Auto,))
