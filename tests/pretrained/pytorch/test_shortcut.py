"""Shortcuts without parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import models
from kd_jax.core.errors import UsageError
from kd_jax.models.layers import padded_shortcut
from kd_jax.models.resnet import ResNet


@pytest.mark.parametrize(("channels", "before"), [(2, 0), (4, 1), (5, 1), (8, 3)])
@pytest.mark.parametrize("strides", [1, 2])
def test_every_second_pixel_and_zeros_on_both_sides(channels, before, strides):
    x = np.random.default_rng(0).normal(size=(2, 5, 4, 2)).astype(np.float32)
    result = np.asarray(padded_shortcut(jnp.asarray(x), channels, strides))
    expected = np.zeros((2, *x[:, ::strides, ::strides].shape[1:3], channels), np.float32)
    expected[..., before : before + 2] = x[:, ::strides, ::strides]
    np.testing.assert_array_equal(result, expected)


# Parameters with 10 classes: "0.27M", "0.46M", "0.66M", "0.85M" and "1.7M" in the table of
# akamaster/pytorch_resnet_cifar10; the first and fourth number are those of its files.
@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("resnet20", 269_722),
        ("resnet32", 464_154),
        ("resnet44", 658_586),
        ("resnet56", 853_018),
        ("resnet110", 1_727_962),
    ],
)
def test_number_of_parameters(name, parameters):
    network = models.create(name, num_classes=10, shortcut="A")
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    shapes = jax.eval_shape(lambda x: network.init(jax.random.key(0), x, train=False), image)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == parameters


def test_the_projection_is_the_default():
    assert models.create("resnet8", num_classes=2) == models.create(
        "resnet8", num_classes=2, shortcut="B"
    )


def test_what_is_wrong_is_named():
    with pytest.raises(UsageError, match="shortcut = 'C' is unknown: choose one of A, B"):
        models.create("resnet8", num_classes=2, shortcut="C")
    network = ResNet(2, (1, 1), (8, 4), stem_channels=8, shortcut="A")
    with pytest.raises(UsageError, match="cannot reduce 8 channels to 4: take shortcut = 'B'"):
        jax.eval_shape(
            lambda x: network.init(jax.random.key(0), x, train=False),
            jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32),
        )
