import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import FAST, compiled, value_of

from kd_jax.losses import (
    correlation_congruence,
    probabilistic_transfer,
    similarity_preserving,
)


def paper_congruence(student, teacher, **options):
    return correlation_congruence(student, teacher, variant="paper", **options)


LOSSES = [similarity_preserving, probabilistic_transfer, correlation_congruence, paper_congruence]


def features(rows=8, width=16):
    return np.random.default_rng(0).normal(size=(2, rows, width)).astype(np.float32)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "name, loss, student, teacher",
    [
        ("sp", similarity_preserving, "in_fs", "in_ft"),
        ("pkt", probabilistic_transfer, "in_S", "in_T"),
        ("cc", correlation_congruence, "in_S", "in_T"),
    ],
)
def test_agrees_with_the_official_code(golden, agrees, x64, name, loss, student, teacher, dtype):
    student, teacher = (jnp.asarray(golden[k], dtype) for k in (student, teacher))
    got = jax.jit(jax.value_and_grad(loss), compiler_options=FAST)(student, teacher)
    agrees(got, golden[f"val_{name}"], golden[f"grad_{name}"], dtype)


@pytest.mark.parametrize(
    "loss, student, teacher, value, norm",
    [
        (similarity_preserving, "fs", "ft", 0.2408480276, 1.9840728157e-3),
        (probabilistic_transfer, "s", "t", 0.0110084269, 0.0164300311),
        (correlation_congruence, "s", "t", 10.1122247184, 2.8590517773),
    ],
)
def test_agrees_with_the_official_code_on_waves(
    waves, agrees_with_table, loss, student, teacher, value, norm
):
    agrees_with_table(loss, waves[student], waves[teacher], value, norm)


def literal_congruence(student, teacher, gamma, order):
    """CC, eq. 9 and 10: the Gaussian kernel of the normalised features as a Taylor series."""

    def correlations(x):
        x = x / jnp.sqrt((x * x).sum(1, keepdims=True))
        powers = [(2 * gamma) ** p / math.factorial(p) * (x @ x.T) ** p for p in range(order + 1)]
        return math.exp(-2 * gamma) * sum(powers)

    return ((correlations(student) - correlations(teacher)) ** 2).mean()


def literal_transfer(student, teacher):
    """PKT, eq. 4 to 7, with RepDistiller's guards and its mean over all pairs."""

    def probabilities(x):
        x = x / (jnp.sqrt((x * x).sum(1, keepdims=True)) + 1e-7)
        similarities = (x @ x.T + 1) / 2
        return similarities / similarities.sum(1, keepdims=True)

    p, q = probabilities(teacher), probabilities(student)
    return (p * jnp.log((p + 1e-7) / (q + 1e-7))).mean()


def test_transfer_agrees_with_its_formula_between_widths(agrees_with_literal):
    student, teacher = features()
    agrees_with_literal(probabilistic_transfer, literal_transfer, student, teacher[:, :9])


@pytest.mark.parametrize("options", [{}, {"gamma": 0.7, "order": 3}])
def test_papers_congruence_agrees_with_its_formula(agrees_with_literal, options):
    literal = functools.partial(literal_congruence, **({"gamma": 0.4, "order": 2} | options))
    agrees_with_literal(functools.partial(paper_congruence, **options), literal, *features())


def test_series_of_the_papers_congruence_tends_to_the_gaussian_kernel(x64):
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
    # Gaps of 1 and 2, of 3 and 1, and of 0 and 5 between neighbours in a batch of three.
    student, teacher = np.float32([[1, 0], [5, 2], [1, 1]]), np.float32([[0, 2], [2, 3], [1, 6]])
    got = value_of(correlation_congruence)(student, teacher)
    np.testing.assert_allclose(got, ((1 * 3 + 2 * 1) + (3 * 0 + 1 * 5)) / 2, rtol=1e-6)
    # Similar images against orthogonal ones: rows (1, 1) / sqrt 2 against (1, 0) and (0, 1).
    student, teacher = np.float32([[2], [2]]), np.float32([[3, 0], [0, 4]])
    got = value_of(similarity_preserving)(student, teacher)
    expected = 2 * ((1 - 0.5**0.5) ** 2 + 0.5) / 4
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    # Probabilities 1/2 and 1/2 of the student against 2/3 and 1/3.
    got = value_of(probabilistic_transfer)(student, teacher)
    expected = (2 / 3 * np.log(4 / 3) + 1 / 3 * np.log(2 / 3)) / 2
    np.testing.assert_allclose(got, expected, rtol=1e-5)


@pytest.mark.parametrize("loss", LOSSES)
def test_masked_rows_are_as_good_as_absent(leaves_rows_out, loss):
    # For neighbours in the batch: those around masked rows become neighbours.
    leaves_rows_out(compiled(loss), *features(rows=12), np.arange(12) % 3 > 0)


@pytest.mark.parametrize("loss", LOSSES)
def test_no_row_and_one_row_are_worth_nothing(loss):
    student, teacher = features(rows=12)
    for row in (12, 5):
        where = np.arange(12) == row
        value, gradients = compiled(loss)(student, teacher, where=where)
        np.testing.assert_allclose(value, 0, atol=1e-12)
        np.testing.assert_allclose(gradients, np.zeros((2, 12, 16)), atol=1e-6)


def test_one_image_alone_is_worth_nothing():
    def total(student, teacher):
        return sum(loss(student, teacher) for loss in LOSSES)

    np.testing.assert_allclose(value_of(total)(*features(rows=1)), 0, atol=1e-12)


@pytest.mark.parametrize("loss", LOSSES)
def test_zero_rows_are_finite(loss):
    student, teacher = features()
    student[2:4], teacher[3] = 0, 0
    zeros = np.zeros_like(student)
    for pair in [(student, teacher), (zeros, teacher), (student, zeros), (zeros, zeros)]:
        value, gradients = compiled(loss)(*pair)
        assert value >= 0
        assert np.isfinite(value) and np.isfinite(gradients).all()


@pytest.mark.parametrize("loss", LOSSES)
def test_equal_networks_are_at_rest(loss):
    student, _ = features()
    value, gradients = compiled(loss)(student, student)
    np.testing.assert_allclose(value, 0, atol=1e-12)
    np.testing.assert_allclose(gradients, np.zeros((2, 8, 16)), atol=1e-7)


@pytest.mark.parametrize("loss", [similarity_preserving, probabilistic_transfer, paper_congruence])
def test_similarities_see_neither_order_nor_rotation_nor_size(loss):
    student, teacher = features()
    rng = np.random.default_rng(1)
    rotation = np.linalg.qr(rng.normal(size=(16, 16)))[0].astype(np.float32)
    images, width = rng.permutation(8), rng.permutation(16)
    expected, _ = compiled(loss)(student, teacher)
    for other in (student @ rotation, 1e3 * student, 1e-2 * student, student[:, width], -student):
        got, _ = compiled(loss)(other.astype(np.float32), teacher)
        np.testing.assert_allclose(got, expected, rtol=1e-4)
    got, _ = compiled(loss)(student[images], teacher[images])
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    assert abs(compiled(loss)(student + 1, teacher)[0] / expected - 1) > 0.01


def test_official_congruence_depends_on_the_order_of_the_images():
    student, teacher = features()
    expected, _ = compiled(correlation_congruence)(student, teacher)
    backwards, _ = compiled(correlation_congruence)(student[::-1], teacher[::-1])
    np.testing.assert_allclose(backwards, expected, rtol=1e-6)
    swapped = np.array([0, 2, 1, 3, 4, 5, 6, 7])
    got, _ = compiled(correlation_congruence)(student[swapped], teacher[swapped])
    assert abs(got / expected - 1) > 0.01


def test_sizes_may_differ_and_maps_are_flattened():
    student, teacher = features()
    padded = np.pad(student, ((0, 0), (0, 5)))  # zeros change no similarity
    expected, _ = compiled(similarity_preserving)(student, teacher)
    got = value_of(similarity_preserving)(padded, teacher)
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    got = value_of(similarity_preserving)(student.reshape(8, 2, 2, 4), teacher.reshape(8, 4, 1, 4))
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_bfloat16_is_computed_in_float32():
    def every(student, teacher):
        return jnp.stack([loss(student, teacher) for loss in LOSSES])

    rounded = features().astype(jnp.bfloat16)
    got = value_of(every)(*rounded)
    assert got.dtype == jnp.float32
    expected = [compiled(loss)(*rounded.astype(np.float32))[0] for loss in LOSSES]
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_misuse_is_told():
    rows, wide = np.zeros((4, 7), np.float32), np.zeros((4, 9), np.float32)
    for loss in LOSSES:
        with pytest.raises(ValueError, match=r"\(4, 7\).*\(5, 7\)"):
            loss(rows, np.zeros((5, 7)))
        with pytest.raises(ValueError, match="boolean"):
            loss(rows, rows, where=np.ones(4))
        with pytest.raises(ValueError, match=r"\(3,\).*\(4, 7\)"):
            loss(rows, rows, where=np.ones(3, bool))
    for call, message in [
        (lambda: similarity_preserving(rows[:, 0], rows[:, 0]), r"\(4,\).*\(4,\)"),
        (lambda: correlation_congruence(rows, wide), r"\(4, 7\).*\(4, 9\)"),
        (lambda: correlation_congruence(rows, rows, variant="code"), "'code'"),
        (lambda: paper_congruence(rows, rows, order=-1), "order.*-1"),
    ]:
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(call)


def test_opposite_rows_have_no_negative_probability():
    # (1 + cos) / 2 of v and -c v is rounded below 0 in every eighth draw.
    rng = np.random.default_rng(0)
    kernel = jax.jit(jax.vmap(probabilistic_transfer))
    rows = rng.normal(size=(200, 512)).astype(np.float32)
    scales = rng.uniform(0.5, 2, (200, 1)).astype(np.float32)
    student = np.stack([rows, -scales * rows], axis=1)
    assert np.isfinite(kernel(student, student[::-1])).all()


def test_similarity_sees_no_scale_however_small_or_large():
    student, teacher = features()
    expected, _ = compiled(similarity_preserving)(student, teacher)
    for scale in (1e-25, 1e25):
        got, gradients = compiled(similarity_preserving)(np.float32(scale) * student, teacher)
        np.testing.assert_allclose(got, expected, rtol=1e-4)
        assert np.isfinite(gradients[0]).all()
