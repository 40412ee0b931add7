"""Norms of gradients and weights."""

import jax
import numpy as np
import optax
from small_stage import BATCH, dense_frozen, dense_stage

from kd_jax.core.devices import data_mesh
from kd_jax.methods import KD
from kd_jax.training import init_state, train_step
from kd_jax.training.norms import norm_program


def test_the_norms_are_those_of_the_update_and_of_the_weights():
    """One step of SGD at the rate 0.1 moves the weights by a tenth of the gradient."""
    stage = dense_stage(KD())
    frozen = dense_frozen(stage)
    state = init_state(stage, BATCH, frozen)
    rows = {name: array[None] for name, array in BATCH.items()}
    found = norm_program(stage, data_mesh(2))(state, frozen, None, rows)
    assert set(found) == {"gradient_norm/student", "weight_norm/student"}  # KD has no adapters
    weights = jax.tree.leaves(state.params["student"])
    expected = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in weights))
    np.testing.assert_allclose(found["weight_norm/student"], expected, rtol=1e-6)
    after, _ = jax.jit(lambda s, f, b: train_step(stage, s, f, b))(state, frozen, BATCH)
    moved = optax.tree.sub(after.params["student"], state.params["student"])
    gradient = float(optax.tree.norm(moved)) / 0.1
    np.testing.assert_allclose(found["gradient_norm/student"], gradient, rtol=1e-4)
