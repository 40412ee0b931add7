"""Multiply-adds of a function."""

import jax
import jax.numpy as jnp
from jax import lax

from kd_jax.experiment.work import multiply_adds


def test_convolutions_and_products_are_counted_by_hand():
    def network(images, kernel, weights):
        maps = jax.jit(
            lambda x: lax.conv_general_dilated(
                x, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
        )(images)
        return maps.mean((1, 2)) @ weights

    shapes = ((1, 8, 8, 3), (3, 3, 3, 16), (16, 10))
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    # 4x4 positions of 16 channels, 3x3x3 products each; then 16 x 10.
    assert multiply_adds(network, *arguments) == 4 * 4 * 16 * 27 + 160


def test_a_grouped_convolution_has_fewer():
    def network(images, kernel):
        return lax.conv_general_dilated(
            images,
            kernel,
            (1, 1),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=4,
        )

    shapes = ((1, 5, 5, 4), (3, 3, 1, 4))
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    assert multiply_adds(network, *arguments) == 5 * 5 * 4 * 9
