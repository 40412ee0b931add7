"""Moving averages of the trained networks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_stage import BATCH, dense_frozen, dense_stage

from kd_jax.core.errors import UsageError
from kd_jax.methods import KD, Supervised
from kd_jax.training import init_state, train_step
from kd_jax.training.average import next_average


def test_the_average_follows_the_parameters_with_the_decay_of_tensorflow():
    """d = min(decay, (1 + t) / (10 + t)), as in tf.train.ExponentialMovingAverage."""
    stage = dense_stage(KD(), ema_decay=0.2)
    frozen = dense_frozen(stage)
    state = init_state(stage, BATCH, frozen)
    expected = np.asarray(state.params["student"]["hidden"]["kernel"])
    step = jax.jit(functools.partial(train_step, stage), donate_argnums=0)
    for decay in (1 / 10, 2 / 11, 0.2, 0.2):
        state, _ = step(state, frozen, BATCH)
        new = np.asarray(state.params["student"]["hidden"]["kernel"])
        expected = decay * expected + (1 - decay) * new
    found = state.averaged.variables("student")["params"]["hidden"]["kernel"]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert np.abs(found - new).max() > 1e-4
    assert state.averaged.ema == {}
    assert state.averaged.method_state is state.method_state


def test_batch_statistics_are_averaged_and_integers_are_not():
    before = {
        "params": {"student": jnp.ones(2, jnp.bfloat16)},
        "model_state": {"student": {"mean": jnp.zeros(2), "count": jnp.asarray(3)}},
    }
    state = {"student": {"mean": jnp.ones(2), "count": jnp.asarray(4)}}
    found = next_average(
        before, 0.75, jnp.asarray(100), {"student": before["params"]["student"]}, state
    )
    np.testing.assert_allclose(found["model_state"]["student"]["mean"], 0.25)
    assert found["model_state"]["student"]["count"] == 4
    assert found["params"]["student"].dtype == jnp.bfloat16


def test_without_a_decay_the_state_has_no_averages():
    state = init_state(dense_stage(Supervised()), BATCH)
    assert state.ema == {}
    assert state.averaged.params is state.params


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_a_decay_is_less_than_one(decay):
    with pytest.raises(UsageError, match="ema_decay must be at least 0 and less than 1"):
        dense_stage(Supervised(), ema_decay=decay)
