import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from kd_jax.errors import UsageError
from kd_jax.models import convolution, layers, shufflenet
from kd_jax.models.shufflenet import ShuffleBlockV1, ShuffleBlockV2, ShuffleNetV1, ShuffleNetV2


def test_channel_shuffle_deals_out():
    x = jnp.tile(jnp.arange(12), (2, 1))
    expected = [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11]
    np.testing.assert_array_equal(shufflenet.channel_shuffle(x, 3), [expected] * 2)
    np.testing.assert_array_equal(shufflenet.channel_shuffle(x, 1), x)


def _conv(x, kernel, strides=1):
    """XLA's own; the groups follow from the shapes."""
    return lax.conv_general_dilated(
        x,
        kernel,
        (strides, strides),
        [(kernel.shape[0] // 2,) * 2] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1] // kernel.shape[2],
    )


def _grouped(x, kernel, strides, groups):
    pads = [(kernel.shape[0] // 2,) * 2] * 2
    return convolution.windows_product(x, kernel, (strides,) * 2, pads, groups=groups)


def test_grouped_product_equals_xla():
    rng = np.random.default_rng(0)
    cases = []
    for size, window, strides in [(4, 1, 1), (5, 1, 2), (2, 3, 1)]:
        x = jnp.asarray(rng.normal(size=(2, size, size, 6)), jnp.float32)
        kernel = jnp.asarray(rng.normal(size=(window, window, 2, 9)), jnp.float32)
        cases.append((x, kernel, strides))

    @jax.jit
    def both():
        return [
            [
                f(x, k, strides),
                *jax.grad(lambda *a, f=f, s=strides: jnp.sum(jnp.sin(f(*a, s))), (0, 1))(x, k),
            ]
            for f in (functools.partial(_grouped, groups=3), _conv)
            for x, k, strides in cases
        ]

    results = both()
    for ours, theirs in zip(results[:3], results[3:], strict=True):
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def _average(x):
    """Windows of 3x3 at stride 2, one pixel of zeros around."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))
    return windows[:, ::2, ::2].mean((-1, -2))


def test_average_pool_counts_the_padding():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 4, 3)), jnp.float32)
    y = layers.average_pool(x, 3, strides=2, padding=1)
    np.testing.assert_allclose(y, _average(x), rtol=1e-5, atol=1e-6)
    assert layers.average_pool(x.astype(jnp.bfloat16), 3, strides=2).dtype == jnp.bfloat16


def _run(block, channels, size=5):
    """A block's input, result and kernels by name; its batch norms scale by 1, 2, 3, ..."""
    block = block(
        conv=layers.convolution(jnp.float32), norm=layers.batch_norm(train=False, axis_name=None)
    )
    x = jnp.asarray(np.random.default_rng(1).normal(size=(2, size, size, channels)), jnp.float32)
    shapes = jax.eval_shape(block.init, jax.random.key(0), x)
    rng = np.random.default_rng(0)

    def fill(path, leaf):
        kind = path[-1].key
        if kind in ("kernel", "scale"):
            return jnp.asarray(rng.normal(size=leaf.shape), jnp.float32)
        return jnp.full(leaf.shape, 1.0 - 1e-5 if kind == "var" else 0.0, jnp.float32)

    variables = jax.tree_util.tree_map_with_path(fill, shapes)
    return x, jax.jit(block.apply)(variables, x), variables["params"]


def _layer(params, i, x, strides=1, conv="Conv_{}", norm="BatchNorm_{}"):
    kernel = params[conv.format(i)]["kernel"]
    scale = params[norm.format(i)]["scale"]
    return np.asarray(_conv(x, kernel, strides)) * np.asarray(scale)


@pytest.mark.parametrize(("strides", "first"), [(1, 3), (2, 3), (2, 1)])
def test_block_of_version_1(strides, first):
    block = functools.partial(
        ShuffleBlockV1, features=24, strides=strides, first_groups=first, groups=3
    )
    x, result, params = _run(block, 24)
    assert params["Conv_0"]["kernel"].shape == (1, 1, 24 // first, 6)
    assert params["Conv_1"]["kernel"].shape == (3, 3, 1, 6)
    assert params["Conv_2"]["kernel"].shape == (1, 1, 2, 24)
    y = np.maximum(_layer(params, 0, x), 0)
    y = y[..., [0, 2, 4, 1, 3, 5]] if first == 3 else y
    y = np.maximum(_layer(params, 1, y, strides), 0)
    y = _layer(params, 2, y)
    expected = y + x if strides == 1 else np.concatenate([y, _average(x)], axis=-1)
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("strides", [1, 2])
def test_block_of_version_2(strides):
    x, result, params = _run(functools.partial(ShuffleBlockV2, features=6, strides=strides), 6)
    left, y = (x[..., :3], x[..., 3:]) if strides == 1 else (x, x)
    if strides == 2:
        left = _layer(params, 1, left, 2, "left_conv{}", "left_norm{}")
        left = _layer(params, 2, left, 1, "left_conv{}", "left_norm{}")
    y = np.maximum(_layer(params, 0, y), 0)
    y = _layer(params, 2, _layer(params, 1, y, strides))
    expected = np.stack([left, y], axis=-1).reshape(result.shape)  # one by one
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-4)


def test_kernels_start_as_pytorchs():
    kernel = layers.kaiming_uniform(jax.random.key(0), (3, 3, 4, 500))
    assert np.abs(kernel).max() <= 1 / 6
    np.testing.assert_allclose(kernel.std(), 1 / 6 / np.sqrt(3), rtol=0.02)


@pytest.mark.parametrize("version", [ShuffleNetV1, ShuffleNetV2])
def test_any_image_but_none(version):
    network = version(num_classes=2, blocks=(1, 1, 1), width=0.05)

    def maps(*shape):
        init = functools.partial(network.init_with_output, train=False)
        outputs, _ = jax.eval_shape(init, jax.random.key(0), jnp.zeros(shape))
        return [m.shape[1:3] for m in outputs.maps]

    for size in (16, 32, 64):
        assert maps(1, size, size, 3) == [(size // n,) * 2 for n in (2, 4, 8)]
    assert maps(1, 1, 1, 4) == [(1, 1)] * 3
    assert maps(1, 9, 4, 3) == [(5, 2), (3, 1), (2, 1)]
    with pytest.raises(UsageError, match=r"ShuffleNetV\d cannot see images of 0x4 pixels"):
        maps(1, 0, 4, 3)
