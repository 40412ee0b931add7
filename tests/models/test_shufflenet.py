import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax.models import layers, norms
from kd_jax.models.shufflenet import ShuffleBlockV1, ShuffleBlockV2, channel_shuffle


def test_channel_shuffle():
    x = jnp.tile(jnp.arange(12), (2, 1))
    expected = [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11]
    np.testing.assert_array_equal(channel_shuffle(x, 3), [expected] * 2)
    np.testing.assert_array_equal(channel_shuffle(x, 1), x)


@pytest.fixture
def run(filled, xla_convolution):
    """Runs a block; returns its input, result, parameters and a function of one of its layers."""

    def run(block, channels):
        norm = norms.batch_norm(train=False, axis_name=None)
        block = block(conv=layers.convolution(jnp.float32), norm=norm)
        x = np.float32(np.random.default_rng(1).normal(size=(2, 5, 5, channels)))
        variables = filled(block, x)
        params = variables["params"]

        def layer(i, x, strides=1, conv="Conv_{}", norm="BatchNorm_{}"):
            y = np.asarray(xla_convolution(x, params[conv.format(i)]["kernel"], strides))
            norm = jax.tree.map(np.asarray, params[norm.format(i)])
            return y * norm["scale"] + norm["bias"]

        return x, jax.jit(block.apply)(variables, x), params, layer

    return run


@pytest.mark.parametrize(("strides", "first"), [(1, 3), (2, 3), (2, 1)])
def test_block_of_version_1(run, strides, first):
    block = functools.partial(
        ShuffleBlockV1, features=24, strides=strides, first_groups=first, groups=3
    )
    x, result, params, layer = run(block, 24)
    assert params["Conv_0"]["kernel"].shape == (1, 1, 24 // first, 6)
    assert params["Conv_1"]["kernel"].shape == (3, 3, 1, 6)
    assert params["Conv_2"]["kernel"].shape == (1, 1, 2, 24)
    y = np.maximum(layer(0, x), 0)
    y = y[..., [0, 2, 4, 1, 3, 5]] if first == 3 else y
    y = layer(2, np.maximum(layer(1, y, strides), 0))
    pooled = layers.average_pool(jnp.asarray(x), 3, strides=2, padding=1)
    expected = y + x if strides == 1 else np.concatenate([y, pooled], axis=-1)
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("strides", [1, 2])
def test_block_of_version_2(run, strides):
    block = functools.partial(ShuffleBlockV2, features=6, strides=strides)
    x, result, _, layer = run(block, 6)
    left, y = (x[..., :3], x[..., 3:]) if strides == 1 else (x, x)
    if strides == 2:
        left = layer(1, left, 2, "left_conv{}", "left_norm{}")
        left = layer(2, left, 1, "left_conv{}", "left_norm{}")
    y = layer(2, layer(1, np.maximum(layer(0, y), 0), strides))
    expected = np.stack([left, y], axis=-1).reshape(result.shape)  # one by one
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-4)
