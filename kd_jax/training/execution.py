"""Compiles the train step: a global view over a mesh, or one program per device."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh

from kd_jax.core.devices import AXIS, place, replicated, split
from kd_jax.data.loaders import Rows, batch_of
from kd_jax.training.stage import Stage
from kd_jax.training.state import TrainState
from kd_jax.training.step import train_step

PyTree = Any
RunSteps = Callable[
    [TrainState, Mapping[str, PyTree], Mapping[str, jax.Array], Rows],
    tuple[TrainState, dict[str, jax.Array]],
]
"""`(state, frozen, images, rows [K, N, ...]) -> (state, metrics [K])`.

`state` must not be used again. `images` are on the devices and `rows` on the host: see
`kd_jax.data.Loader`."""


def _run_steps(stage: Stage, axis_name, constrain, state, frozen, images, rows):
    """Runs K steps, each with its rows."""

    def body(state, rows):
        batch = constrain(batch_of(images, rows))
        return train_step(stage, state, frozen, batch, axis_name)

    if len(rows["index"]) == 1:  # XLA optimizes worse inside a loop, even of one iteration
        state, metrics = body(state, jax.tree.map(lambda array: array[0], rows))
        return state, jax.tree.map(lambda value: value[None], metrics)
    return lax.scan(body, state, rows)


def _donated() -> tuple[int, ...]:
    """Returns the arguments whose buffers a step may reuse: the state, on accelerators.

    On the CPU reuse costs time: 2 to 3 % of a ResNet-18 step.
    """
    return () if jax.default_backend() == "cpu" else (0,)


def jit_steps(stage: Stage, mesh: Mesh) -> RunSteps:
    """Compiles steps in the global view: `jax.jit` over the mesh, batches split over `"data"`."""
    whole, batches = replicated(mesh), split(mesh)

    def constrain(batch):
        return lax.with_sharding_constraint(batch, batches)

    run = jax.jit(
        functools.partial(_run_steps, stage, None, constrain),
        in_shardings=(whole, whole, whole, split(mesh, axis=1)),
        out_shardings=(whole, whole),
        donate_argnums=_donated(),
    )

    def run_steps(state, frozen, images, rows):
        placed = {name: place(array, split(mesh, axis=1)) for name, array in rows.items()}
        return run(state, frozen, images, placed)

    return run_steps


def pmap_steps(stage: Stage, mesh: Mesh) -> RunSteps:
    """Compiles the same steps as one program per device, joined by collectives over `"data"`.

    The networks must be made with `axis_name="data"`, so that their batch norms see the global
    batch.
    """
    run = jax.pmap(
        functools.partial(_run_steps, stage, AXIS, lambda batch: batch),
        axis_name=AXIS,
        in_axes=(None, None, None, 0),
        out_axes=None,
        donate_argnums=_donated(),
        devices=mesh.devices.ravel().tolist(),
    )

    def shares(array):
        steps, batch_size, *rest = array.shape
        cut = array.reshape(steps, mesh.size, batch_size // mesh.size, *rest)
        return jnp.asarray(cut.swapaxes(0, 1))

    def run_steps(state, frozen, images, rows):
        return run(state, frozen, images, jax.tree.map(shares, rows))

    return run_steps


EXECUTIONS: dict[str, Callable[[Stage, Mesh], RunSteps]] = {"jit": jit_steps, "pmap": pmap_steps}
"""The two ways to run steps, by the name in configs."""


def chunk(step: int, stop: int, start: int, fused: int) -> int:
    """Returns the number of steps of the next call.

    The interval from `start` to `stop` is cut into equal chunks of at most `fused` steps; the last
    may be shorter. No more than two programs are compiled, and a run that resumes at the end of a
    chunk is cut as before.
    """
    length = stop - start
    size = -(-length // -(-length // fused))
    return min(size - (step - start) % size, stop - step)


def fused_steps() -> int:
    """Returns the number of steps that one call may run: several on accelerators, one on the CPU.

    XLA's CPU backend runs convolutions inside a loop many times slower than outside.
    """
    return 1 if jax.default_backend() == "cpu" else 50
