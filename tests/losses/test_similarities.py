import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import value_of

from kd_jax.losses import (
    correlation_congruence,
    probabilistic_transfer,
    similarity_preserving,
)

paper_congruence = functools.partial(correlation_congruence, variant="paper")


def features():
    return np.random.default_rng(0).normal(size=(2, 8, 16)).astype(np.float32)


@pytest.mark.parametrize(
    "name, loss, student, teacher",
    [
        ("sp", similarity_preserving, "in_fs", "in_ft"),
        ("pkt", probabilistic_transfer, "in_S", "in_T"),
        ("cc", correlation_congruence, "in_S", "in_T"),
    ],
)
def test_agrees_with_the_official_code(golden, agrees, name, loss, student, teacher):
    agrees(loss, student, teacher, golden[f"val_{name}"], golden[f"grad_{name}"])


def congruence_formula(student, teacher, gamma, order):
    """Computes eq. 9 and 10 of CC: the Gaussian kernel of normalized features as a series."""

    def correlations(x):
        x = x / jnp.sqrt((x * x).sum(1, keepdims=True))
        powers = [(2 * gamma) ** p / math.factorial(p) * (x @ x.T) ** p for p in range(order + 1)]
        return math.exp(-2 * gamma) * sum(powers)

    return ((correlations(student) - correlations(teacher)) ** 2).mean()


def transfer_formula(student, teacher):
    """Computes eq. 4 to 7 of PKT, with the mean and the small constants of RepDistiller."""

    def probabilities(x):
        x = x / (jnp.sqrt((x * x).sum(1, keepdims=True)) + 1e-7)
        similarities = (x @ x.T + 1) / 2
        return similarities / similarities.sum(1, keepdims=True)

    p, q = probabilities(teacher), probabilities(student)
    return (p * jnp.log((p + 1e-7) / (q + 1e-7))).mean()


def test_transfer_agrees_with_its_formula_for_different_widths(agrees_with_formula):
    student, teacher = features()
    agrees_with_formula(probabilistic_transfer, transfer_formula, student, teacher[:, :9])


@pytest.mark.parametrize("options", [{}, {"gamma": 0.7, "order": 3}])
def test_congruence_of_the_paper_agrees_with_its_formula(agrees_with_formula, options):
    formula = functools.partial(congruence_formula, **({"gamma": 0.4, "order": 2} | options))
    agrees_with_formula(functools.partial(paper_congruence, **options), formula, *features())


def test_series_of_the_paper_converges_to_the_gaussian_kernel(x64):
    student, teacher = features().astype(np.float64)

    def correlations(x, gamma):
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
        return np.exp(-gamma * ((x[:, None] - x[None]) ** 2).sum(2))

    loss = value_of(paper_congruence, order=16)
    for gamma in (0.1, 0.4, 1.0):
        gap = correlations(student, gamma) - correlations(teacher, gamma)
        np.testing.assert_allclose(loss(student, teacher, gamma=gamma), (gap**2).mean(), rtol=1e-8)
    assert loss._cache_size() == 1


def test_values_by_hand():
    # The differences in a batch of three are 1 and 2, 3 and 1, 0 and 5.
    student, teacher = np.float32([[1, 0], [5, 2], [1, 1]]), np.float32([[0, 2], [2, 3], [1, 6]])
    got = value_of(correlation_congruence)(student, teacher)
    np.testing.assert_allclose(got, ((1 * 3 + 2 * 1) + (3 * 0 + 1 * 5)) / 2, rtol=1e-6)
    # Parallel and orthogonal images: rows (1, 1) / sqrt 2; and (1, 0), (0, 1).
    student, teacher = np.float32([[2], [2]]), np.float32([[3, 0], [0, 4]])
    got = value_of(similarity_preserving)(student, teacher)
    expected = 2 * ((1 - 0.5**0.5) ** 2 + 0.5) / 4
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    # The probabilities are 1/2, 1/2 in the student, and 2/3, 1/3 in the teacher.
    got = value_of(probabilistic_transfer)(student, teacher)
    expected = (2 / 3 * np.log(4 / 3) + 1 / 3 * np.log(2 / 3)) / 2
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_official_congruence_depends_on_the_order_of_the_images():
    student, teacher = features()
    loss = value_of(correlation_congruence)
    expected = loss(student, teacher)
    np.testing.assert_allclose(loss(student[::-1], teacher[::-1]), expected, rtol=1e-6)
    swapped = np.array([0, 2, 1, 3, 4, 5, 6, 7])
    assert abs(loss(student[swapped], teacher[swapped]) / expected - 1) > 0.01


def test_sizes_may_differ_and_maps_are_flattened():
    student, teacher = features()
    padded = np.pad(student, ((0, 0), (0, 5)))  # zeros do not change similarities
    loss = value_of(similarity_preserving)
    expected = loss(student, teacher)
    np.testing.assert_allclose(loss(padded, teacher), expected, rtol=1e-5)
    got = loss(student.reshape(8, 2, 2, 4), teacher.reshape(8, 4, 1, 4))
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_opposite_rows_have_no_negative_probability():
    # In one of eight draws, (1 + cos) / 2 of v and -c v is rounded to less than 0.
    rng = np.random.default_rng(0)
    kernel = jax.jit(jax.vmap(probabilistic_transfer))
    rows = rng.normal(size=(200, 512)).astype(np.float32)
    scales = rng.uniform(0.5, 2, (200, 1)).astype(np.float32)
    student = np.stack([rows, -scales * rows], axis=1)
    assert np.isfinite(kernel(student, student[::-1])).all()


ROWS = np.zeros((4, 7), np.float32)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: similarity_preserving(ROWS[:, 0], ROWS[:, 0]), r"same images.*\(4,\).*\(4,\)"),
        (lambda: correlation_congruence(ROWS, ROWS, variant="code"), "variant.*'code'"),
        (lambda: paper_congruence(ROWS, ROWS, order=-1), "order must not be negative; got -1"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(call)
