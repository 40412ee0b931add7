"""Compiles the train step: a global view over a mesh, or one program per device."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh

from kd_jax.core.devices import AXIS, place, platform, replicated, split
from kd_jax.data.loaders import Rows, batch_of
from kd_jax.data.resident import Resident
from kd_jax.training.stage import Stage
from kd_jax.training.state import TrainState
from kd_jax.training.step import train_step

PyTree = Any
_FUSED = 50
"""Steps in one call on accelerators: enough to hide the time of the host."""
RunSteps = Callable[
    [TrainState, Mapping[str, PyTree], Resident | None, Rows],
    tuple[TrainState, dict[str, jax.Array]],
]
"""`(state, frozen, images, rows [K, N, ...]) -> (state, metrics [fused])`.

It runs K steps, at most `fused`; the first K metrics are theirs. `state` must not be used again.
`images` are on the devices and `rows` on the host: see `kd_jax.data.Loader`."""


def _run_steps(stage: Stage, axis_name, unroll, constrain, state, frozen, images, rows, count):
    """Runs the first `count` steps, each with its rows."""

    def one(state, rows):
        batch = constrain(batch_of(images, rows))
        return train_step(stage, state, frozen, batch, axis_name, unroll=unroll)

    def rows_of(step):
        return jax.tree.map(lambda array: lax.dynamic_index_in_dim(array, step, 0, False), rows)

    fused = len(rows["index"])
    if fused == 1:  # XLA optimizes worse inside a loop, even of one iteration
        state, metrics = one(state, jax.tree.map(lambda array: array[0], rows))
        return state, jax.tree.map(lambda value: value[None], metrics)

    def body(step, carry):
        state, metrics = carry
        state, new = one(state, rows_of(step))
        return state, jax.tree.map(lambda all, one: all.at[step].set(one), metrics, new)

    _, shapes = jax.eval_shape(one, state, rows_of(0))
    metrics = jax.tree.map(lambda one: jnp.zeros((fused, *one.shape), one.dtype), shapes)
    return lax.fori_loop(0, count, body, (state, metrics))


def _filled_up(rows: Rows, fused: int) -> Rows:
    """Adds rows that are not used, so that one program is enough for every number of steps."""
    missing = fused - len(rows["index"])

    def fill(array):
        return np.concatenate([array, np.zeros((missing, *array.shape[1:]), array.dtype)])

    return rows if missing == 0 else {name: fill(array) for name, array in rows.items()}


def _donated(mesh: Mesh) -> tuple[int, ...]:
    """Returns the arguments whose buffers a step may reuse: the state, on accelerators.

    On the CPU reuse costs time: 2 to 3 % of a ResNet-18 step.
    """
    return () if platform(mesh) == "cpu" else (0,)


def jit_program(stage: Stage, mesh: Mesh) -> jax.stages.Wrapped:
    """Returns the program of `jit_steps`: `(state, frozen, images, rows, count)`.

    The devices of the mesh may be descriptions, for which programs are only compiled.
    """
    whole, batches, unroll = replicated(mesh), split(mesh), _crawls(mesh)

    def constrain(batch):
        return lax.with_sharding_constraint(batch, batches)

    def run(state, frozen, images, rows, count):
        # Losses with a loop split it over the devices of the mesh that is set.
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return _run_steps(stage, None, unroll, constrain, state, frozen, images, rows, count)

    return jax.jit(
        run,
        in_shardings=(whole, whole, None, split(mesh, axis=1), None),
        out_shardings=(whole, whole),
        donate_argnums=_donated(mesh),
    )


def jit_steps(stage: Stage, mesh: Mesh, fused: int = 1) -> RunSteps:
    """Compiles steps in the global view: `jax.jit` over the mesh, batches split over `"data"`.

    Args:
        stage: the stage.
        mesh: devices that share each batch.
        fused: maximum number of steps per call.
    """
    run = jit_program(stage, mesh)

    def run_steps(state, frozen, images, rows):
        placed = {
            name: place(array, split(mesh, axis=1))
            for name, array in _filled_up(rows, fused).items()
        }
        return run(state, frozen, images, placed, np.int32(len(rows["index"])))

    return run_steps


def pmap_steps(stage: Stage, mesh: Mesh, fused: int = 1) -> RunSteps:
    """Compiles the same steps as one program per device, joined by collectives over `"data"`.

    The networks must be made with `axis_name="data"`, so that their batch norms see the global
    batch. The arguments are those of `jit_steps`.
    """
    run = jax.pmap(
        functools.partial(_run_steps, stage, AXIS, _crawls(mesh), lambda batch: batch),
        axis_name=AXIS,
        in_axes=(None, None, None, 0, None),
        out_axes=None,
        donate_argnums=_donated(mesh),
        devices=mesh.devices.ravel().tolist(),
    )

    def shares(array):
        steps, batch_size, *rest = array.shape
        cut = array.reshape(steps, mesh.size, batch_size // mesh.size, *rest)
        return jnp.asarray(cut.swapaxes(0, 1))

    def run_steps(state, frozen, images, rows):
        placed = jax.tree.map(shares, _filled_up(rows, fused))
        return run(state, frozen, images, placed, np.int32(len(rows["index"])))

    return run_steps


EXECUTIONS: dict[str, Callable[[Stage, Mesh, int], RunSteps]] = {
    "jit": jit_steps,
    "pmap": pmap_steps,
}
"""The two ways to run steps, by the name in configs."""


def fused_steps(mesh: Mesh) -> int:
    """Returns the number of steps that one call may run: one where loops are slow."""
    return 1 if _crawls(mesh) else _FUSED


def _crawls(mesh: Mesh) -> bool:
    """Returns whether loops are slow: on the CPU, XLA's convolutions in them take much longer."""
    return platform(mesh) == "cpu"
