import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax.models import layers, norms
from kd_jax.models.mobilenet import InvertedResidual


@pytest.mark.parametrize(
    ("features", "strides", "added"), [(4, 1, True), (4, 2, False), (6, 1, False)]
)
def test_block(filled, xla_convolution, features, strides, added):
    block = InvertedResidual(
        features,
        strides,
        expansion=2,
        conv=layers.convolution(jnp.float32),
        norm=norms.batch_norm(train=False, axis_name=None),
    )
    x = np.float32(np.random.default_rng(0).normal(size=(2, 5, 4, 4)))
    variables = filled(block, x)
    params = variables["params"]
    kernels = [params[f"Conv_{i}"]["kernel"] for i in range(3)]
    assert [k.shape for k in kernels] == [(1, 1, 4, 8), (3, 3, 1, 8), (1, 1, 8, features)]
    expected = x
    for i, kernel in enumerate(kernels):
        norm = params[f"BatchNorm_{i}"]
        expected = xla_convolution(expected, kernel, strides if i == 1 else 1)
        expected = np.asarray(expected) * np.asarray(norm["scale"]) + np.asarray(norm["bias"])
        expected = expected if i == 2 else np.maximum(expected, 0)
    expected = expected + x if added else expected
    np.testing.assert_allclose(jax.jit(block.apply)(variables, x), expected, rtol=1e-4, atol=1e-4)
