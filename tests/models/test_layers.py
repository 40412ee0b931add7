import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax.errors import UsageError
from kd_jax.models import layers


def test_kaiming_normal_has_pytorchs_deviation():
    kernel = layers.kaiming_normal(jax.random.key(0), (3, 3, 16, 128))
    np.testing.assert_allclose(kernel.std(), np.sqrt(2 / (3 * 3 * 128)), rtol=0.02)
    assert np.abs(kernel).max() > 3 * kernel.std()  # not truncated


def test_linear_map_starts_as_pytorchs_linear():
    layer = layers.LinearMap(64)
    params = layer.init(jax.random.key(0), jnp.ones((2, 100)))["params"]
    assert jax.tree.map(jnp.shape, params) == {"kernel": (100, 64), "bias": (64,)}
    for p in jax.tree.leaves(params):
        assert 0.08 < np.abs(p).max() <= 0.1
    np.testing.assert_allclose(params["kernel"].std(), 0.1 / np.sqrt(3), rtol=0.02)


def test_linear_map_is_affine_and_float32_for_any_rank():
    layer = layers.LinearMap(3)
    for shape in [(4,), (2, 4), (2, 5, 4)]:
        x = jax.random.normal(jax.random.key(1), shape, jnp.bfloat16)
        y, variables = layer.init_with_output(jax.random.key(0), x)
        params = variables["params"]
        kernel, bias = np.asarray(params["kernel"]), np.asarray(params["bias"])
        expected = np.asarray(x, np.float32) @ kernel + bias
        assert y.dtype == jnp.float32
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("size", "strides", "padding"), [(2, 2, 0), (3, 2, 1), (3, 1, 1)])
def test_max_pool_equals_flax(size, strides, padding):
    def ours(x):
        return layers.max_pool(x, size, strides=strides, padding=padding)

    def flax(x):
        return nn.max_pool(x, (size, size), (strides, strides), [(padding, padding)] * 2)

    rng = np.random.default_rng(0)
    for shape in [(2, 8, 8, 3), (1, 5, 6, 2), (1, 3, 2, 1)]:
        x = jnp.asarray(-np.abs(rng.normal(size=shape)), jnp.float32)  # padding must not win
        (y, dx), (expected_y, expected_dx) = jax.jit(
            lambda x: [
                (f(x), jax.grad(lambda x, f=f: jnp.sum(jnp.sin(f(x))))(x)) for f in (ours, flax)
            ]
        )(x)
        np.testing.assert_array_equal(y, expected_y)
        np.testing.assert_allclose(dx, expected_dx, rtol=1e-6)


def test_max_pool_of_bfloat16_stays_bfloat16():
    x = jnp.arange(16, dtype=jnp.bfloat16).reshape(1, 4, 4, 1)
    y = layers.max_pool(x, 2, strides=2)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(y.astype(jnp.float32).ravel(), [5, 7, 13, 15])


def test_batch_norm_has_pytorchs_constants():
    x = 100 + np.random.default_rng(0).normal(size=(64, 2, 2, 3)).astype(np.float32)
    norm = layers.batch_norm(train=True, axis_name=None)()
    variables = norm.init(jax.random.key(1), x)
    y, state = norm.apply(variables, x, mutable=["batch_stats"])
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    np.testing.assert_allclose(y, (x - mean) / np.sqrt(var + 1e-5), atol=1e-4)
    np.testing.assert_allclose(state["batch_stats"]["mean"], 0.1 * mean, rtol=1e-5)
    np.testing.assert_allclose(state["batch_stats"]["var"], 0.9 + 0.1 * var, rtol=1e-5)


def test_batch_norm_of_bfloat16_computes_in_float32():
    x = jnp.asarray(100 + np.random.default_rng(0).normal(size=(64, 2, 2, 3)), jnp.bfloat16)
    norm = layers.batch_norm(train=True, axis_name=None)()
    variables = norm.init(jax.random.key(1), x)
    y, state = norm.apply(variables, x, mutable=["batch_stats"])
    assert y.dtype == jnp.bfloat16
    expected = 0.9 + 0.1 * np.asarray(x, np.float32).var((0, 1, 2))
    np.testing.assert_allclose(state["batch_stats"]["var"], expected, rtol=1e-5)


def test_batch_norm_averages_over_the_axis():
    x = jax.random.normal(jax.random.key(0), (8, 2, 2, 2, 3))
    norm = layers.batch_norm(train=True, axis_name="data")()
    variables = norm.init(jax.random.key(1), x[0])
    step = jax.pmap(
        lambda x: norm.apply(variables, x, mutable=["batch_stats"])[0], axis_name="data"
    )
    whole = layers.batch_norm(train=True, axis_name=None)()
    expected, _ = whole.apply(variables, x.reshape(16, 2, 2, 3), mutable=["batch_stats"])
    np.testing.assert_allclose(step(x).reshape(16, 2, 2, 3), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("images", "word"),
    [
        (jnp.ones((8, 8, 3)), r"float32 \[8, 8, 3\]"),
        (jnp.ones((1, 8, 8, 3), jnp.uint8), "uint8"),
        (jnp.ones((1, 8, 4, 3)), "8x4 pixels.*at least 5x5"),
    ],
)
def test_bad_images(images, word):
    with pytest.raises(UsageError, match=f"net .*{word}"):
        layers.check_images("net", images, least=5)
