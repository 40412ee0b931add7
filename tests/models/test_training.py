"""All networks in training."""

import functools

import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import FAST

from kd_jax import models
from kd_jax.models.mobilenet import MobileNetV2
from kd_jax.models.resnet import ResNet
from kd_jax.models.shufflenet import ShuffleNetV1, ShuffleNetV2
from kd_jax.models.sphereface import SphereFace
from kd_jax.models.wide_resnet import WideResNet


@pytest.mark.parametrize(
    ("network", "size"),
    [
        (ResNet(3, (1, 1), (3, 6), stem_channels=3, dtype=jnp.bfloat16), 8),
        (models.create("vgg8", num_classes=3, width=0.1, dtype="bfloat16"), 8),
        pytest.param(
            WideResNet(num_classes=3, depth=10, width=0.2, dtype=jnp.bfloat16),
            8,
            marks=pytest.mark.long,
        ),
        pytest.param(
            ShuffleNetV1(3, blocks=(2,), width=0.1, dtype=jnp.bfloat16),
            16,
            marks=pytest.mark.long,
        ),
        (ShuffleNetV2(3, blocks=(2,), width=0.1, dtype=jnp.bfloat16), 32),
        (MobileNetV2(3, blocks=(0, 0, 2, 0, 0, 0, 0), width=0.1, dtype=jnp.bfloat16), 64),
        (SphereFace(3, (1, 0), (3, 6), embedding_size=8, dtype=jnp.bfloat16), 8),
    ],
    ids=lambda value: str(value) if isinstance(value, int) else type(value).__name__,
)
def test_a_step_in_bfloat16(filled, network, size):
    images = np.random.default_rng(0).normal(size=(4, size, size, 2))
    images = jnp.asarray(images, jnp.float32).at[1].set(0)
    variables = filled(network, images, train=False)

    @functools.partial(jax.jit, compiler_options=FAST)
    def step(variables):
        def loss(params):
            outputs, state = network.apply(
                {**variables, "params": params}, images, train=True, mutable=["batch_stats"]
            )
            scores = outputs.logits if outputs.cosines is None else outputs.cosines
            return jnp.mean(outputs.logits**2) + jnp.mean(scores**2), (outputs, state)

        return jax.grad(loss, has_aux=True)(variables["params"])

    gradients, (outputs, state) = step(variables)
    for array in jax.tree.leaves((gradients, state, outputs.logits, outputs.embedding)):
        assert array.dtype == jnp.float32 and np.isfinite(array).all()
    for array in (g for g in jax.tree.leaves(gradients) if g.ndim > 1):
        assert np.abs(array).max() > 0
    before = {kind: variables[kind] for kind in state}
    changed = jax.tree.map(lambda a, b: (a != b).any(), state, before)
    assert all(jax.tree.leaves(changed))
    linear = isinstance(network, MobileNetV2 | SphereFace)
    for activated, raw in zip(outputs.feature_maps, outputs.preactivations, strict=True):
        np.testing.assert_array_equal(activated, raw if linear else nn.relu(raw))
    for array in outputs.feature_maps + outputs.preactivations + outputs.blocks:
        assert array.dtype == jnp.bfloat16
    if outputs.blocks and not isinstance(network, SphereFace):
        np.testing.assert_array_equal(outputs.blocks[-1], outputs.feature_maps[-1])
    if not isinstance(network, ShuffleNetV2 | MobileNetV2 | SphereFace):
        mean = outputs.feature_maps[-1].astype(jnp.float32).mean((1, 2))
        np.testing.assert_allclose(outputs.embedding, mean, rtol=1e-6)


def test_wrn_drops_out_only_in_training(traced):
    network = WideResNet(num_classes=2, depth=10, dropout=0.5)
    _, variables = traced(network, 4, 4, 4, 1)

    def trace(train):
        apply = functools.partial(network.apply, train=train, mutable=["batch_stats"])
        jax.eval_shape(apply, variables, jnp.zeros((4, 4, 4, 1)))

    trace(train=False)  # needs no random numbers
    with pytest.raises(flax.errors.InvalidRngError, match="dropout"):
        trace(train=True)
