import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import FAST

from kd_jax.losses import center_relation, class_centers


def features(rows=8, width=16):
    return np.random.default_rng(0).normal(size=(2, rows, width)).astype(np.float32)


def batch_centers(student, teacher, labels, reduction="mean", **options):
    """Eq. 7 with the batch's own centres."""
    centers, counts = class_centers(teacher, labels, 5, **options)
    return center_relation(student, teacher, centers, present=counts > 0, reduction=reduction)


@pytest.mark.parametrize("dtype, reduction", [(np.float32, "mean"), (np.float64, "sum")])
def test_agrees_with_the_papers_sum(golden, agrees, x64, dtype, reduction):
    student, teacher = (jnp.asarray(golden[k], dtype) for k in ("in_S", "in_T"))
    count = 1 if reduction == "sum" else golden["count_LC"] / len(student)

    def total(student, teacher, labels):
        return batch_centers(student, teacher, labels, reduction).sum()

    grad = jax.jit(jax.value_and_grad(total), compiler_options=FAST)
    value, gradient = (golden[f"{k}_horkd_sum_LC"] / count for k in ("val", "grad"))
    agrees(grad(student, teacher, golden["in_lab"]), value, gradient, dtype)


def test_values_by_hand():
    rows, labels = np.float32([[1, 0], [3, 2], [5, 5], [7, 7]]), np.array([0, 0, 2, -1])
    centers, counts = jax.jit(class_centers, static_argnums=2)(
        rows, labels, 4, where=np.array([True, True, False, True])
    )
    np.testing.assert_array_equal(counts, [2, 0, 0, 0])
    np.testing.assert_array_equal(centers, [[2, 1], [0, 0], [0, 0], [0, 0]])
    # Distances to (2, 1), the only class present: sqrt 2 against 0, and 0 against 0.
    student, teacher = np.float32([[1, 0], [2, 1]]), np.float32([[2, 1], [2, 1]])
    got = jax.jit(center_relation)(student, teacher, centers, present=np.array(counts) > 0)
    np.testing.assert_allclose(got, [2, 0], rtol=1e-6)


def test_no_class_is_worth_nothing():
    value, gradients = of_four_classes(*features(rows=12), where=np.zeros(12, bool))
    assert value == 0
    assert not any(map(np.any, gradients))


def test_one_image_lies_on_its_own_center():
    student, teacher = features(rows=1)
    got = jax.jit(batch_centers)(student, teacher, np.array([4]))
    np.testing.assert_allclose(got, [((student - teacher) ** 2).sum()], rtol=1e-5)


@functools.partial(jax.jit, compiler_options=FAST)
@functools.partial(jax.value_and_grad, argnums=(0, 1))
def of_four_classes(student, teacher, *, where=None):
    """Eq. 7 over the rows that count."""
    keep = jnp.ones(len(student), bool) if where is None else where
    labels = jnp.where(keep, jnp.cumsum(keep) % 4, 4)
    student, teacher = (jnp.where(keep[:, None], x, 0) for x in (student, teacher))
    return batch_centers(student, teacher, labels, where=where).sum(where=keep)


def test_masked_rows_are_as_good_as_absent(leaves_rows_out):
    leaves_rows_out(of_four_classes, *features(rows=12), np.arange(12) % 3 > 0)


def test_equal_networks_are_at_rest():
    student, _ = features()
    value, gradients = of_four_classes(student, student)
    np.testing.assert_allclose(value, 0, atol=1e-12)
    np.testing.assert_allclose(gradients, np.zeros((2, 8, 16)), atol=1e-7)


def test_relation_sees_neither_order_nor_common_pose():
    student, teacher = features()
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(16, 16)))[0].astype(np.float32)
    labels, kernel = np.arange(8) % 4, jax.jit(batch_centers)
    expected = kernel(student, teacher, labels)
    rotated = kernel(student @ rotation + 1, teacher @ rotation + 1, 3 - labels)
    np.testing.assert_allclose(rotated, expected, rtol=1e-4)
    backwards = kernel(student[::-1], teacher[::-1], labels[::-1])
    np.testing.assert_allclose(backwards[::-1], expected, rtol=1e-4)


def test_misuse_is_told():
    rows, labels = np.zeros((4, 7), np.float32), np.zeros(4, int)
    relation = functools.partial(center_relation, rows, rows)
    for call, message in [
        (lambda: class_centers(rows, labels[:3], 2), r"\(4, 7\).*\(3,\)"),
        (lambda: class_centers(rows, labels.astype(float), 2), "integers"),
        (lambda: class_centers(rows, labels, 2, where=labels), "boolean"),
        (lambda: center_relation(rows, rows[:3], rows), r"\(4, 7\).*\(3, 7\)"),
        (lambda: relation(np.zeros((2, 5))), r"\(4, 7\).*\(2, 5\)"),
        (lambda: relation(rows, present=np.ones(3, bool)), r"\(3,\).*\(4, 7\)"),
        (lambda: relation(rows, reduction="max"), "'max'"),
    ]:
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(call)
