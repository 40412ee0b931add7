import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import FAST

from kd_jax import models
from kd_jax.core.errors import UsageError
from kd_jax.models import heads


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
    plain, _ = cosines_of(kernel, x)
    kernel[:, 1] *= np.float32(size)
    x[2] *= np.float32(size)
    gradients, (cosines, norms) = values_and_gradients(kernel, x, weights)
    for array in (cosines, norms, *gradients):
        assert np.isfinite(array).all()
    if size < 1e-20:
        assert not cosines[2].any() and not cosines[:, 1].any() and norms[2] == 0
        assert not gradients[0][:, 1].any() and not gradients[1][2].any()
        np.testing.assert_allclose(cosines[:2, ::2], plain[:2, ::2], rtol=1e-6)
    else:
        np.testing.assert_allclose(cosines, plain, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_a_row_without_direction_has_no_cosines(value):
    """1e30 squared is infinity in float32."""
    x = np.ones((2, 4), np.float32)
    x[1, 2] = value
    cosines, _ = cosines_of(np.ones((4, 3), np.float32), jnp.asarray(x))
    assert np.isfinite(cosines[0]).all()
    assert np.isnan(cosines[1]).all()


def test_bfloat16_embeddings_are_computed_in_float32():
    kernel, x, _ = example()
    rounded = jnp.asarray(x, jnp.bfloat16)
    got = cosines_of(kernel, rounded)
    for one, other in zip(got, cosines_of(kernel, rounded.astype(jnp.float32)), strict=True):
        assert one.dtype == jnp.float32
        np.testing.assert_array_equal(one, other)


def test_directions_have_spherefaces_initial_values():
    params = jax.jit(models.AngularMap(200).init)(jax.random.key(0), jnp.ones((2, 300)))["params"]
    assert jax.tree.map(jnp.shape, params) == {"kernel": (300, 200)}
    kernel = np.asarray(params["kernel"])
    assert 0.099 < np.abs(kernel).max() <= 0.1  # sqrt(3 / 300)
    np.testing.assert_allclose(np.linalg.norm(kernel, axis=0).mean(), 1, rtol=0.01)


class Network(nn.Module):
    head: str
    scale: float | None = None

    @nn.compact
    def __call__(self, x):
        return heads.classify(self.head, 3, x, self.scale)


def test_heads_of_a_network():
    kernel, x, _ = example()
    bias = np.float32([1, 2, 3])
    params = {"kernel": kernel, "bias": bias}
    logits, cosines = Network("linear").apply({"params": {"classifier": params}}, x)
    np.testing.assert_allclose(logits, x @ kernel + bias, rtol=1e-5, atol=1e-6)
    assert cosines is None

    expected, lengths = cosines_of(kernel, x)
    del params["bias"]
    for scale, factor in [(None, lengths[:, None]), (30.0, 30)]:
        logits, cosines = Network("angular", scale).apply({"params": {"classifier": params}}, x)
        np.testing.assert_allclose(cosines, expected, rtol=1e-6)
        np.testing.assert_allclose(logits, factor * expected, rtol=1e-6)


class Embedding(nn.Module):
    size: int | None = None
    normalize: bool = False

    @nn.compact
    def __call__(self, x):
        return heads.embed(x, self.size, self.normalize)


def test_the_embedding_is_a_linear_map_with_optional_normalization():
    """`model/embedding.py` of lenscloth/RKD."""
    kernel, x, _ = example()
    bias = np.float32([1, 2, 3])
    params = {"params": {"embedding": {"kernel": kernel, "bias": bias}}}
    mapped = x @ kernel + bias
    np.testing.assert_allclose(Embedding(3).apply(params, x), mapped, rtol=1e-5, atol=1e-6)
    unit = mapped / np.linalg.norm(mapped, axis=1, keepdims=True)
    np.testing.assert_allclose(Embedding(3, True).apply(params, x), unit, rtol=1e-5, atol=1e-6)
    assert Embedding().apply({}, x) is x
    x[1] = 0
    found = Embedding(normalize=True).apply({}, x)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), [1, 0, 1, 1, 1], rtol=1e-6)


FAMILIES = {
    "resnet8": {"branches": 2},
    "wrn_16_1": {"branches": 2},
    "shufflenet_v1": {},
    "shufflenet_v2": {},
    "mobilenet_v2": {},
    "vgg8": {"branches": 2},
    "sphereface4": {},
}
"""One network of each family."""


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_has_an_embedding_of_any_width(name):
    options = {"embedding_size": 5, "normalize_embedding": True, **FAMILIES[name]}
    network = models.create(name, num_classes=3, **options)
    images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)

    def run(images):
        variables = network.init(jax.random.key(0), images, train=False)
        return variables["params"], network.apply(variables, images, train=False)

    params, outputs = jax.eval_shape(run, images)
    for i, branch in enumerate(outputs.branches or (outputs,)):
        prefix = f"branch{i + 1}_" if i else ""
        assert branch.embedding.shape == (2, 5)
        assert params[f"{prefix}embedding"]["kernel"].shape[1] == 5
        assert params[f"{prefix}classifier"]["kernel"].shape == (5, 3)


@pytest.mark.parametrize("name", ["resnet8", "vgg8", "mobilenet_v2"])
def test_an_impossible_embedding_is_refused(name):
    with pytest.raises(UsageError, match="embedding_size = 0 must be a whole number of at least 1"):
        models.create(name, num_classes=3, embedding_size=0)
