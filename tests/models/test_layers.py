import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import FAST

from kd_jax.core.errors import UsageError
from kd_jax.models import layers


def test_initial_values_are_pytorchs():
    kernel = np.asarray(layers.kaiming_normal(jax.random.key(0), (3, 3, 16, 128)))
    np.testing.assert_allclose(kernel.std(), np.sqrt(2 / (3 * 3 * 128)), rtol=0.02)
    assert np.abs(kernel).max() > 3 * kernel.std()  # not truncated
    kernel = np.asarray(layers.kaiming_uniform(jax.random.key(0), (3, 3, 4, 500)))
    assert np.abs(kernel).max() <= 1 / 6
    np.testing.assert_allclose(kernel.std(), 1 / 6 / np.sqrt(3), rtol=0.02)


def test_linear_map_has_pytorchs_initial_values():
    params = jax.jit(layers.LinearMap(64).init)(jax.random.key(0), jnp.ones((2, 100)))["params"]
    assert jax.tree.map(jnp.shape, params) == {"kernel": (100, 64), "bias": (64,)}
    for p in map(np.asarray, params.values()):
        assert 0.08 < np.abs(p).max() <= 0.1
    np.testing.assert_allclose(np.std(params["kernel"]), 0.1 / np.sqrt(3), rtol=0.02)


def test_linear_map_is_affine_and_float32_for_any_rank():
    rng = np.random.default_rng(0)
    kernel, bias = np.float32(rng.normal(size=(4, 3))), np.float32(rng.normal(size=3))
    for shape in [(4,), (2, 4), (2, 5, 4)]:
        x = jnp.asarray(rng.normal(size=shape), jnp.bfloat16)
        y = layers.LinearMap(3).apply({"params": {"kernel": kernel, "bias": bias}}, x)
        expected = np.asarray(x, np.float32) @ kernel + bias
        assert y.dtype == jnp.float32
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)


def test_max_pool_equals_flax():
    options = [(2, 2, 0), (3, 2, 1), (3, 1, 1)]

    def value_and_gradient(pool, x):
        return pool(x), jax.grad(lambda x: jnp.sum(jnp.sin(pool(x))))(x)

    def both(x):
        for size, strides, padding in options:
            pads = [(padding, padding)] * 2
            yield value_and_gradient(
                lambda x, s=size, t=strides, p=padding: layers.max_pool(x, s, strides=t, padding=p),
                x,
            )
            yield value_and_gradient(
                lambda x, s=size, t=strides, p=pads: nn.max_pool(x, (s, s), (t, t), p), x
            )

    rng = np.random.default_rng(0)
    for shape in [(2, 8, 8, 3), (1, 5, 6, 2), (1, 3, 2, 1)]:
        x = jnp.asarray(-np.abs(rng.normal(size=shape)), jnp.float32)  # padding must not be chosen
        results = jax.jit(lambda x: list(both(x)), compiler_options=FAST)(x)
        for ours, flax in zip(results[::2], results[1::2], strict=True):
            np.testing.assert_array_equal(ours[0], flax[0])
            np.testing.assert_allclose(ours[1], flax[1], rtol=1e-6)


def test_max_pool_of_bfloat16_stays_bfloat16():
    x = jnp.arange(16, dtype=jnp.bfloat16).reshape(1, 4, 4, 1)
    y = layers.max_pool(x, 2, strides=2)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(y.astype(jnp.float32).ravel(), [5, 7, 13, 15])


def test_average_pool_counts_the_padding():
    x = np.float32(np.random.default_rng(0).normal(size=(2, 5, 4, 3)))
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))
    y = layers.average_pool(jnp.asarray(x), 3, strides=2, padding=1)
    np.testing.assert_allclose(y, windows[:, ::2, ::2].mean((-1, -2)), rtol=1e-5, atol=1e-6)
    assert layers.average_pool(jnp.asarray(x, jnp.bfloat16), 3, strides=2).dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (jnp.ones((8, 8, 3)), r"float32 \[8, 8, 3\]: normalize"),
        (jnp.ones((1, 8, 8, 3), jnp.uint8), "uint8"),
        (jnp.ones((1, 8, 4, 3)), "8x4 pixels.*at least 5x5"),
    ],
)
def test_bad_images(images, message):
    with pytest.raises(UsageError, match=f"net .*{message}"):
        layers.check_images("net", images, least=5)
