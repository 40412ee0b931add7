import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax.losses import feature_l1


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_agrees_with_the_papers_sum(golden, agrees, x64, dtype):
    student, teacher = (jnp.asarray(golden[k], dtype) for k in ("in_S", "in_T"))
    got = jax.value_and_grad(lambda s: feature_l1(s, teacher).sum())(student)
    agrees(got, golden["val_horkd_sum_L1"], golden["grad_horkd_sum_L1"], dtype)


def test_value_by_hand_and_zero_gradient_at_equality():
    student, teacher = jnp.array([[1.0, -2], [3, 4]]), jnp.array([[0.0, 1], [3, 4]])
    np.testing.assert_array_equal(feature_l1(student, teacher), [4, 0])
    gradient = jax.grad(lambda s: feature_l1(s, teacher).sum())(student)
    np.testing.assert_array_equal(gradient, [[1, -1], [0, 0]])


def test_bfloat16_is_summed_in_float32():
    student = jnp.full((1, 1000), 1.0, jnp.bfloat16)
    loss = feature_l1(student, jnp.zeros((1, 1000)))
    assert loss.dtype == jnp.float32
    assert loss[0] == 1000  # sums of ones in bfloat16 stop at 256


def test_different_widths_are_told():
    with pytest.raises(ValueError, match=r"\(4, 3\).*\(4, 5\)"):
        feature_l1(np.zeros((4, 3)), np.zeros((4, 5)))
