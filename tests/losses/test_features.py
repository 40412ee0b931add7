import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import FAST

from kd_jax.losses import feature_l1, feature_mse, normalized_feature_l2

GOLDEN = [
    ("horkd_sum_L1", feature_l1, "in_S", "in_T", jnp.sum),
    ("normalized_feature_l2_mean", normalized_feature_l2, "in_S", "in_T", jnp.mean),
    ("hint", feature_mse, "in_fs", "in_ft6", jnp.mean),
]


@functools.cache
def gradients(loss):
    """Both gradients of the sum, and the losses, compiled once for all tests."""

    def total(student, teacher):
        losses = loss(student, teacher)
        return losses.sum(), losses

    return jax.jit(jax.grad(total, argnums=(0, 1), has_aux=True))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name, loss, student, teacher, reduce", GOLDEN)
def test_agrees_with_the_papers(golden, agrees, x64, name, loss, student, teacher, reduce, dtype):
    student, teacher = (jnp.asarray(golden[k], dtype) for k in (student, teacher))
    grad = jax.jit(jax.value_and_grad(lambda s, t: reduce(loss(s, t))), compiler_options=FAST)
    got = grad(student, teacher)
    agrees(got, golden[f"val_{name}"], golden[f"grad_{name}"], dtype)


def test_mse_agrees_with_the_official_code(waves, agrees_with_table):
    agrees_with_table(feature_mse, waves["fs"], waves["ft"], 0.9962654256, 0.0360169489)


def test_values_by_hand_and_zero_gradient_at_equality():
    student, teacher = np.float32([[1, -2], [3, 4]]), np.float32([[0, 1], [3, 4]])
    both, losses = gradients(feature_l1)(student, teacher)
    np.testing.assert_array_equal(losses, [4, 0])
    np.testing.assert_array_equal(both[0], [[1, -1], [0, 0]])
    both, losses = gradients(feature_mse)(student, teacher)
    np.testing.assert_array_equal(losses, [5, 0])
    np.testing.assert_array_equal(both[0], [[1, -3], [0, 0]])
    # (3, 4) / 5 and (-1, 0) are (1.6, 0.8) apart.
    got = jax.jit(normalized_feature_l2)(
        np.float32([[3, 4], [2, 0]]), np.float32([[-2, 0], [-7, 0]])
    )
    np.testing.assert_allclose(got, [3.2**0.5, 2], rtol=1e-6)


@pytest.mark.parametrize("shape", [(3, 4), (3, 2, 5), (3, 2, 2, 2), (3, 2, 1, 2, 2)])
def test_mse_is_the_mean_over_all_but_the_image(shape):
    student, teacher = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    expected = ((student - teacher) ** 2).reshape(3, -1).mean(1)
    np.testing.assert_allclose(jax.jit(feature_mse)(student, teacher), expected, rtol=1e-6)


@pytest.mark.parametrize("swapped", [False, True])
def test_mse_pools_the_larger_map(golden, swapped):
    large, small = golden["in_ft"].astype(np.float32), golden["in_ft4"].astype(np.float32)
    pooled = large.reshape(10, 4, 2, 4, 2, 10).mean((2, 4))
    expected = ((pooled - small) ** 2).mean((1, 2, 3))
    got = jax.jit(feature_mse)(*((small, large) if swapped else (large, small)))
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_normalized_l2_does_not_see_the_size():
    student, teacher = np.random.default_rng(0).normal(size=(2, 5, 8)).astype(np.float32)
    grad = gradients(normalized_feature_l2)
    (expected_gradient, _), expected = grad(student, teacher)
    for size in np.float32([1e-20, 0.1, 1e20]):
        (gradient, _), losses = grad(size * student, teacher / size)
        np.testing.assert_allclose(losses, expected, rtol=1e-6)
        np.testing.assert_allclose(np.asarray(gradient) * size, expected_gradient, atol=1e-6)


@pytest.mark.parametrize("factor", [1, 3])
def test_normalized_l2_rests_where_the_directions_are_equal(factor):
    student = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32)
    both, losses = gradients(normalized_feature_l2)(student, np.float32(factor) * student)
    np.testing.assert_allclose(losses, np.zeros(5), atol=1e-6)
    np.testing.assert_allclose(both, np.zeros((2, 5, 8)), atol=1e-6)


def test_normalized_l2_of_zero_and_parallel_rows_has_no_gradient():
    row, zero = [1.0, -2, 2], [0.0, 0, 0]
    student = np.float32([zero, zero, row, [4, -8, 8]])
    both, losses = gradients(normalized_feature_l2)(student, np.float32([row, zero, row, row]))
    np.testing.assert_allclose(losses, [1, 0, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(both, np.zeros((2, 4, 3)), atol=1e-7)


@pytest.mark.parametrize("loss, value", [(feature_l1, 1000), (feature_mse, 1)])
def test_bfloat16_is_summed_in_float32(loss, value):
    student = jnp.full((1, 1000), 1.0, jnp.bfloat16)
    got = jax.jit(loss)(student, np.zeros((1, 1000), np.float32))
    assert got.dtype == jnp.float32
    assert got[0] == value  # sums of ones in bfloat16 stop at 256


@pytest.mark.parametrize("loss", [feature_l1, feature_mse, normalized_feature_l2])
def test_different_widths_are_told(loss):
    with pytest.raises(ValueError, match=r"\(4, 3\).*\(4, 5\)"):
        loss(np.zeros((4, 3)), np.zeros((4, 5)))


def test_mse_of_other_shapes_is_told():
    for student, teacher in [((4,), (4,)), ((4, 2, 2, 3), (4, 2, 2, 5)), ((4, 2, 2, 3), (4, 12))]:
        with pytest.raises(ValueError, match=r"\(4,.*\(4,"):
            feature_mse(np.zeros(student), np.zeros(teacher))
