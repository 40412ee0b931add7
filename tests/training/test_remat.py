"""Results that the backward pass computes again: the same numbers from less memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.ad_checkpoint import saved_residuals
from small_stage import BATCH, dense_stage

from kd_jax import models
from kd_jax.core.errors import UsageError
from kd_jax.methods import KD, Supervised
from kd_jax.training import init_state, train_step
from kd_jax.training.remat import REMAT, applied

NETWORK = models.create("resnet8", num_classes=3, width=0.2)
IMAGES = jnp.linspace(-1, 1, 4 * 8 * 8).reshape(4, 8, 8, 1)


def loss(kind, params, rest, dtype="float32"):
    apply = applied(NETWORK.clone(dtype=dtype), kind, train=True, mutable=["batch_stats"])
    outputs, new = apply({"params": params, **rest}, IMAGES)
    return jnp.square(outputs.logits).sum() + outputs.feature_maps[0].mean(dtype=jnp.float32), new


@pytest.fixture(scope="module")
def variables():
    found = jax.jit(functools.partial(NETWORK.init, train=False))(jax.random.key(0), IMAGES)
    params = found.pop("params")
    return params, found


def test_values_gradients_and_statistics_are_the_same(variables):
    found = {
        kind: jax.jit(jax.value_and_grad(functools.partial(loss, kind), has_aux=True))(*variables)
        for kind in REMAT
    }
    same = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    for kind in REMAT:
        jax.tree.map(same, found[kind], found["none"])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_less_is_kept_for_the_backward_pass(variables, dtype):
    def kept(kind):
        residuals = saved_residuals(
            lambda params: loss(kind, params, variables[1], dtype)[0], variables[0]
        )
        return sum(leaf.size for leaf, origin in residuals if "argument" not in origin)

    none, convolutions, blocks = map(kept, REMAT)
    assert none > 2 * convolutions > 3 * blocks


def test_a_stage_uses_it_for_its_trained_roles():
    stage = dense_stage(Supervised(), remat={"student": "convolutions"})
    state = init_state(stage, BATCH)
    program = str(jax.make_jaxpr(functools.partial(train_step, stage))(state, {}, BATCH))
    assert "checkpoint" in program or "remat" in program
    with pytest.raises(UsageError, match=r"the role of remat = 'teacher' is unknown.*student"):
        dense_stage(KD(), remat={"teacher": "blocks"})
    with pytest.raises(UsageError, match=r"remat of student = 'block' is unknown.*blocks"):
        dense_stage(KD(), remat={"student": "block"})
    with pytest.raises(UsageError, match="needs a network with the field remat"):
        dense_stage(KD(), remat={"student": "blocks"})
