import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import FAST

from kd_jax import models
from kd_jax.models.resnet import Bottleneck, ResNet, _caffe_stem


def cosines_of(kernel, x):
    return models.AngularMap(kernel.shape[1]).apply({"params": {"kernel": kernel}}, x)


def test_cosines_and_lengths_by_hand():
    x, kernel = np.float32([[3, 4], [0, -2]]), np.float32([[1, 0, 5], [0, 2, 5]])
    cosines, norms = cosines_of(kernel, x)
    root = np.sqrt(0.5)
    np.testing.assert_allclose(cosines, [[0.6, 0.8, 1.4 * root], [0, -1, -root]], atol=1e-6)
    np.testing.assert_allclose(norms, [5, 2])


@functools.partial(jax.jit, compiler_options=FAST)
def values_and_gradients(kernel, x, weights):
    def total(kernel, x):
        cosines, norms = cosines_of(kernel, x)
        return jnp.sum(weights * cosines) + jnp.sum(norms), (cosines, norms)

    return jax.grad(total, (0, 1), has_aux=True)(kernel, x)


def example():
    rng = np.random.default_rng(0)
    return [rng.normal(size=shape).astype(np.float32) for shape in [(4, 3), (5, 4), (5, 3)]]


def test_gradients_are_those_of_the_angle():
    kernel, x, weights = example()
    gradients, _ = values_and_gradients(kernel, x, weights)
    columns = kernel / np.linalg.norm(kernel, axis=0)
    norms = np.linalg.norm(x, axis=1, keepdims=True)
    rows = x / norms
    cosines = rows @ columns
    by_row = (weights @ columns.T - (weights * cosines).sum(1, keepdims=True) * rows) / norms
    np.testing.assert_allclose(gradients[1], by_row + rows, rtol=1e-4, atol=1e-5)
    by_column = rows.T @ weights - (weights * cosines).sum(0) * columns
    expected = by_column / np.linalg.norm(kernel, axis=0)
    np.testing.assert_allclose(gradients[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [0, 1e-30, 1e-15, 1e18])
def test_rows_and_columns_of_any_size_are_finite(size):
    kernel, x, weights = example()
    kernel[:, 1] *= np.float32(size)
    x[2] *= np.float32(size)
    gradients, (cosines, norms) = values_and_gradients(kernel, x, weights)
    for array in (cosines, norms, *gradients):
        assert np.isfinite(array).all()
    plain, _ = cosines_of(example()[0], example()[1])
    if size < 1e-20:
        assert not cosines[2].any() and not cosines[:, 1].any() and norms[2] == 0
        assert not gradients[0][:, 1].any() and not gradients[1][2].any()
        np.testing.assert_allclose(cosines[:2, ::2], plain[:2, ::2], rtol=1e-6)
    else:
        np.testing.assert_allclose(cosines, plain, rtol=1e-3, atol=1e-6)


def test_bfloat16_embeddings_are_computed_in_float32():
    kernel, x, _ = example()
    rounded = jnp.asarray(x, jnp.bfloat16)
    got = cosines_of(kernel, rounded)
    for one, other in zip(got, cosines_of(kernel, rounded.astype(jnp.float32)), strict=True):
        assert one.dtype == jnp.float32
        np.testing.assert_array_equal(one, other)


def test_directions_start_as_spherefaces():
    params = models.AngularMap(200).init(jax.random.key(0), jnp.ones((2, 300)))["params"]
    assert jax.tree.map(jnp.shape, params) == {"kernel": (300, 200)}
    assert 0.099 < np.abs(params["kernel"]).max() <= 0.1  # sqrt(3 / 300)
    np.testing.assert_allclose(np.linalg.norm(params["kernel"], axis=0).mean(), 1, rtol=0.01)


def network(**options):
    return ResNet(5, (1,), (3,), stem_channels=3, **options)


@pytest.fixture(scope="module")
def images():
    return jax.random.normal(jax.random.key(1), (4, 4, 4, 3))


def outputs_of(network, images):
    init = jax.jit(functools.partial(network.init_with_output, train=False), compiler_options=FAST)
    return init(jax.random.key(0), images)


def test_heads_of_a_network(images):
    linear, variables = outputs_of(network(), images)
    head = variables["params"]["classifier"]
    assert jax.tree.map(jnp.shape, head) == {"kernel": (3, 5), "bias": (5,)}
    assert linear.cosines is None
    embedding, kernel, bias = map(np.asarray, (linear.embedding, head["kernel"], head["bias"]))
    expected = embedding @ kernel + bias
    np.testing.assert_allclose(linear.logits, expected, rtol=1e-5, atol=1e-6)

    angular, variables = outputs_of(network(head="angular"), images)
    assert jax.tree.map(jnp.shape, variables["params"]["classifier"]) == {"kernel": (3, 5)}
    assert angular.cosines.shape == (4, 5) and angular.cosines.dtype == jnp.float32
    np.testing.assert_allclose(angular.embedding, linear.embedding, rtol=1e-6)
    lengths = np.linalg.norm(angular.embedding, axis=1, keepdims=True)
    np.testing.assert_allclose(angular.logits, lengths * angular.cosines, rtol=1e-5, atol=1e-6)

    scaled, _ = outputs_of(network(head="angular", head_scale=30.0), images)
    np.testing.assert_allclose(scaled.cosines, angular.cosines, atol=1e-6)
    np.testing.assert_allclose(scaled.logits, 30 * scaled.cosines, rtol=1e-6)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8])
def test_caffes_pool_has_no_border_and_incomplete_last_windows(size):
    # torch.nn.MaxPool2d(3, 2, ceil_mode=True) of the stem's map, whose rectifier is its own here.
    x = np.float32(np.random.default_rng(size).uniform(0.1, 1, (1, size, size + 1, 2)))

    def identity(*_, **__):
        return lambda x: jnp.asarray(x)

    got = _caffe_stem(x, 2, identity, identity)
    rows, columns = (max(-(-(n - 3) // 2), 0) + 1 for n in x.shape[1:3])
    expected = [
        [x[0, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max((0, 1)) for j in range(columns)]
        for i in range(rows)
    ]
    np.testing.assert_array_equal(got[0], expected)


def test_caffes_bottleneck_strides_first():
    def seen_by(**options):
        block = functools.partial(Bottleneck, **options)
        module = ResNet(2, (1, 1), (4, 4), block, stem_channels=4)
        seen = []

        def record(next_method, args, kwargs, context):
            result = next_method(*args, **kwargs)
            if isinstance(context.module, models.Conv) and "stage2" in context.module.path[0]:
                seen.append((context.module.kernel_size[0], args[0].shape[1], result.shape[1]))
            return result

        with nn.intercept_methods(record):
            jax.eval_shape(
                lambda: module.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False)
            )
        return seen

    assert seen_by() == [(1, 8, 8), (3, 8, 4), (1, 4, 4), (1, 8, 4)]
    assert seen_by(stride_first=True) == [(1, 8, 4), (3, 4, 4), (1, 4, 4), (1, 8, 4)]
