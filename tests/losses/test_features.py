import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import FAST, value_of

from kd_jax.losses import feature_l1, feature_mse, normalized_feature_l2


@functools.cache
def gradients(loss):
    """Returns a function for both gradients of the sum, and for the losses."""

    def total(student, teacher):
        losses = loss(student, teacher)
        return losses.sum(), losses

    return jax.jit(jax.grad(total, argnums=(0, 1), has_aux=True), compiler_options=FAST)


@pytest.mark.parametrize(
    "name, loss, student, teacher, reduce",
    [
        ("horkd_sum_L1", feature_l1, "in_S", "in_T", jnp.sum),
        ("normalized_feature_l2_mean", normalized_feature_l2, "in_S", "in_T", jnp.mean),
        ("hint", feature_mse, "in_fs", "in_ft6", jnp.mean),
    ],
)
def test_agrees_with_the_papers(golden, agrees, name, loss, student, teacher, reduce):
    expected = golden[f"val_{name}"], golden[f"grad_{name}"]
    agrees(lambda s, t: reduce(loss(s, t)), student, teacher, *expected)


def test_values_by_hand_and_zero_gradient_of_equal_features():
    student, teacher = np.float32([[1, -2], [3, 4]]), np.float32([[0, 1], [3, 4]])
    both, losses = gradients(feature_l1)(student, teacher)
    np.testing.assert_array_equal(losses, [4, 0])
    np.testing.assert_array_equal(both[0], [[1, -1], [0, 0]])
    both, losses = gradients(feature_mse)(student, teacher)
    np.testing.assert_array_equal(losses, [5, 0])
    np.testing.assert_array_equal(both[0], [[1, -3], [0, 0]])
    # The difference of (3, 4) / 5 and (-1, 0) is (1.6, 0.8).
    _, losses = gradients(normalized_feature_l2)(
        np.float32([[3, 4], [2, 0]]), np.float32([[-2, 0], [-7, 0]])
    )
    np.testing.assert_allclose(losses, [3.2**0.5, 2], rtol=1e-6)


def test_mse_is_the_mean_over_all_axes_of_an_image():
    for shape in [(3, 4), (3, 2, 5), (3, 2, 2, 2), (3, 2, 1, 2, 2)]:
        student, teacher = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
        expected = ((student - teacher) ** 2).reshape(3, -1).mean(1)
        np.testing.assert_allclose(value_of(feature_mse)(student, teacher), expected, rtol=1e-6)


def test_normalized_l2_has_no_gradient_for_zero_and_parallel_rows():
    row, zero = [1.0, -2, 2], [0.0, 0, 0]
    student = np.float32([zero, zero, row, [4, -8, 8]])
    both, losses = gradients(normalized_feature_l2)(student, np.float32([row, zero, row, row]))
    np.testing.assert_allclose(losses, [1, 0, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(both, np.zeros((2, 4, 3)), atol=1e-7)
    student = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32)
    both, losses = gradients(normalized_feature_l2)(student, 3 * student)
    np.testing.assert_allclose(losses, np.zeros(5), atol=1e-6)
    np.testing.assert_allclose(both, np.zeros((2, 5, 8)), atol=1e-6)


@pytest.mark.parametrize("loss, value", [(feature_l1, 1000), (feature_mse, 1)])
def test_bfloat16_is_summed_in_float32(loss, value):
    student = jnp.full((1, 1000), 1.0, jnp.bfloat16)
    got = value_of(loss)(student, np.zeros((1, 1000), np.float32))
    assert got.dtype == jnp.float32
    assert got[0] == value  # sums of ones in bfloat16 stop at 256


@pytest.mark.parametrize(
    "student, teacher", [((4,), (4,)), ((4, 2, 2, 3), (4, 2, 2, 5)), ((4, 2, 2, 3), (4, 12))]
)
def test_mse_names_wrong_shapes(student, teacher):
    with pytest.raises(ValueError, match=r"\(4,.*\(4,"):
        feature_mse(np.zeros(student), np.zeros(teacher))
