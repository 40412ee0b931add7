import functools

import jax
import numpy as np
import pytest
from compiling import FAST, value_of

from kd_jax.losses import center_relation, class_centers


def features(rows=8, width=16):
    return np.random.default_rng(0).normal(size=(2, rows, width)).astype(np.float32)


def batch_centers(student, teacher, labels, reduction="mean"):
    """Computes eq. 7 with the centers of the batch."""
    centers, counts = class_centers(teacher, labels, 5)
    return center_relation(student, teacher, centers, present=counts > 0, reduction=reduction)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_agrees_with_the_sum_of_the_paper(golden, agrees, reduction):
    count = 1 if reduction == "sum" else golden["count_LC"] / len(golden["in_S"])

    def total(student, teacher):
        return batch_centers(student, teacher, golden["in_lab"], reduction).sum()

    agrees(total, "in_S", "in_T", *(golden[f"{k}_horkd_sum_LC"] / count for k in ("val", "grad")))


def test_values_by_hand():
    rows, labels = np.float32([[1, 0], [3, 2], [5, 5], [7, 7]]), np.array([0, 0, 2, -1])
    compute = value_of(class_centers, num_classes=4)
    centers, counts = compute(rows, labels, where=np.array([True, True, False, True]))
    np.testing.assert_array_equal(counts, [2, 0, 0, 0])
    np.testing.assert_array_equal(centers, [[2, 1], [0, 0], [0, 0], [0, 0]])
    # The only class has the center (2, 1). The distances are sqrt 2 and 0, then 0 and 0.
    student, teacher = np.float32([[1, 0], [2, 1]]), np.float32([[2, 1], [2, 1]])
    relation = value_of(center_relation)
    got = relation(student, teacher, centers, present=np.array(counts) > 0)
    np.testing.assert_allclose(got, [2, 0], rtol=1e-6)
    # Without classes, there is no loss.
    assert not relation(student, teacher, centers, present=np.zeros(4, bool)).any()


def test_one_image_equals_its_own_center():
    student, teacher = features(rows=1)
    got = value_of(batch_centers)(student, teacher, np.array([4]))
    np.testing.assert_allclose(got, [((student - teacher) ** 2).sum()], rtol=1e-5)


def test_rows_in_no_class_may_be_nan():
    (rows, _), labels = features(rows=5, width=4), np.array([0, 1, 1, 0, -1])
    where = np.array([True, True, True, False, True])

    def total(rows):
        centers, _ = class_centers(rows, labels, 2, normalize=True, where=where)
        return (centers * np.float32([[1, 2, 3, 4], [4, 3, 2, 1]])).sum()

    grad = jax.jit(jax.value_and_grad(total), compiler_options=FAST)
    expected = grad(rows)
    rows[3:] = np.nan
    jax.tree.map(np.testing.assert_array_equal, grad(rows), expected)
    rows[0] = np.nan
    value, gradient = grad(rows)
    assert np.isnan(value) and np.isnan(gradient[0]).all()


def test_relation_does_not_depend_on_order_and_common_rotation_and_shift():
    student, teacher = features()
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(16, 16)))[0].astype(np.float32)
    labels, kernel = np.arange(8) % 4, value_of(batch_centers)
    expected = kernel(student, teacher, labels)
    rotated = kernel(student @ rotation + 1, teacher @ rotation + 1, 3 - labels)
    np.testing.assert_allclose(rotated, expected, rtol=1e-4)
    backwards = kernel(student[::-1], teacher[::-1], labels[::-1])
    np.testing.assert_allclose(backwards[::-1], expected, rtol=1e-4)


ROWS, LABELS = np.zeros((4, 7), np.float32), np.zeros(4, int)
relation = functools.partial(center_relation, ROWS)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: class_centers(ROWS, LABELS[:3], 2), r"rows \(4, 7\), labels \(3,\)"),
        (lambda: class_centers(ROWS, LABELS.astype(float), 2), "labels must be integers"),
        (lambda: relation(ROWS[:3], ROWS), r"student \(4, 7\), teacher \(3, 7\)"),
        (lambda: relation(ROWS, np.zeros((2, 5))), r"\(4, 7\).*centers \(2, 5\)"),
        (lambda: relation(ROWS, ROWS, present=np.ones(3, bool)), r"present.*\(3,\).*\(4, 7\)"),
        (lambda: relation(ROWS, ROWS, reduction="max"), "'max'"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(call)
