"""Norms of gradients and weights, computed in addition to the train step, which stays the same."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.sharding import Mesh

from kd_jax.core.devices import place, platform, replicated, split
from kd_jax.data.loaders import Rows, batch_of
from kd_jax.data.resident import Resident
from kd_jax.training.stage import Stage
from kd_jax.training.state import TrainState
from kd_jax.training.step import train_step

PyTree = Any
Norms = Callable[[TrainState, Mapping[str, PyTree], Resident | None, Rows], Mapping[str, jax.Array]]
"""`(state, frozen, images, rows [K, N, ...]) -> norms` of the first of the K steps, by name."""


def norm_program(stage: Stage, mesh: Mesh) -> Norms:
    """Compiles the norms of a stage: `gradient_norm/GROUP` and `weight_norm/GROUP`.

    The groups are the trained roles and `adapters`. Gradients are those of the whole batch, before
    clipping and weight decay. A call costs a train step without the update of the optimizer.

    Args:
        stage: the stage, whose networks have no `axis_name`.
        mesh: devices that share the batch.
    """
    measuring = dataclasses.replace(stage, optimizer=_measure())
    whole, batches, unroll = replicated(mesh), split(mesh), platform(mesh) == "cpu"

    def norms(state, frozen, images, rows):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            batch = lax.with_sharding_constraint(batch_of(images, rows), batches)
            return train_step(measuring, state, frozen, batch, unroll=unroll)[0].opt_state

    compiled = jax.jit(norms, in_shardings=(whole, whole, None, batches), out_shardings=whole)

    def run(
        state: TrainState, frozen: Mapping[str, PyTree], images: Resident | None, rows: Rows
    ) -> Mapping[str, jax.Array]:
        placed = {name: place(array[0], batches) for name, array in rows.items()}
        found: Mapping[str, jax.Array] = compiled(state, frozen, images, placed)
        return found

    return run


def _measure() -> optax.GradientTransformation:
    """Returns a transformation that changes nothing and whose state is the norms."""

    def update(gradients, state, params):
        del state
        norms = {}
        for group in gradients:
            if jax.tree.leaves(params[group]):
                norms[f"gradient_norm/{group}"] = _norm(gradients[group])
                norms[f"weight_norm/{group}"] = _norm(params[group])
        return jax.tree.map(jnp.zeros_like, gradients), norms

    return optax.GradientTransformation(lambda params: {}, update)


def _norm(tree: PyTree) -> jax.Array:
    """Returns the Euclidean norm of all values of a tree, in float32."""
    squares = [jnp.sum(jnp.square(leaf.astype(jnp.float32))) for leaf in jax.tree.leaves(tree)]
    return jnp.sqrt(sum(squares, start=jnp.zeros((), jnp.float32)))
