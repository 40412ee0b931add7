"""Functions that several tests of the networks share."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax


@pytest.fixture(scope="session")
def traced():
    """Outputs and variables of a network by shape and dtype; nothing is computed."""

    @functools.cache
    def traced(network, *shape):
        init = functools.partial(network.init_with_output, train=False)
        return jax.eval_shape(init, jax.random.key(0), jax.ShapeDtypeStruct(shape, jnp.float32))

    return traced


@pytest.fixture(scope="session")
def filled():
    """Random parameters, and running statistics of mean 0 and variance 1; nothing is compiled."""

    def filled(module, x, scale=1.0, **options):
        rng = np.random.default_rng(0)

        def fill(path, leaf):
            if path[0].key == "params":
                return jnp.asarray(scale * rng.normal(size=leaf.shape), leaf.dtype)
            return jnp.full(leaf.shape, 1 - 1e-5 if path[-1].key == "var" else 0.0, leaf.dtype)

        shapes = jax.eval_shape(functools.partial(module.init, **options), jax.random.key(0), x)
        return jax.tree_util.tree_map_with_path(fill, shapes)

    return filled


@pytest.fixture(scope="session")
def xla_convolution():
    """XLA's own convolution with PyTorch's padding; the groups follow from the shapes."""

    def xla_convolution(x, kernel, stride=1):
        return lax.conv_general_dilated(
            x,
            kernel,
            (stride, stride),
            [(kernel.shape[0] // 2,) * 2] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=x.shape[-1] // kernel.shape[2],
        )

    return xla_convolution
