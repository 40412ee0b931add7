import functools

import compiling
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax.losses import mk_mmd

compiled = functools.partial(compiling.compiled, mk_mmd)
value_of = functools.partial(compiling.value_of, mk_mmd)


def features(rows=8, teacher_rows=8, width=6):
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(size=(rows, width)), 1 + rng.normal(size=(teacher_rows, width))
    return student.astype(np.float32), teacher.astype(np.float32)


def formula(
    student, teacher, variance, multipliers=(1, 2, 4, 8, 16), unbiased=False, normalize=True
):
    """Computes eq. 8 of KDim, one pair of rows at a time."""
    x, y = np.float64(student), np.float64(teacher)
    if normalize:
        x, y = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (x, y))
    pooled = [*x, *y]
    every = [np.sum((a - b) ** 2) for a in pooled for b in pooled]
    variance = {
        "distinct": np.sum(every) / (len(every) - len(pooled)),
        "all": np.mean(every),
        "cross": np.mean([np.sum((a - b) ** 2) for a in x for b in y]),
    }.get(variance, variance)

    def mean_kernel(x, y, distinct=False):
        kernels = [
            sum(np.exp(-np.sum((a - b) ** 2) / (2 * m * variance)) for m in multipliers)
            for i, a in enumerate(x)
            for j, b in enumerate(y)
            if not distinct or i != j
        ]
        return np.mean(kernels)

    own = mean_kernel(x, x, unbiased) + mean_kernel(y, y, unbiased)
    return own - 2 * mean_kernel(x, y)


@pytest.mark.parametrize(
    "name, options",
    [("offdiag", {}), ("all", {"variance": "all"}), ("cross", {"variance": "cross"})],
)
def test_agrees_with_the_equation_of_the_paper(golden, agrees, name, options):
    expected = (golden[f"{k}_mkmmd_sum_{name}"] for k in ("val", "grad"))
    agrees(functools.partial(mk_mmd, **options), "in_S", "in_T", *expected)


@pytest.mark.parametrize(
    "rows, options",
    [
        ((8, 8), {"unbiased": True}),
        ((4, 7), {"multipliers": (0.5,), "variance": "all"}),
        ((5, 3), {"normalize": False, "variance": "cross", "multipliers": (1, 3)}),
        ((4, 7), {"normalize": False, "unbiased": True, "variance": "all"}),
    ],
)
def test_agrees_with_its_formula(x64, rows, options):
    student, teacher = (x.astype(np.float64) for x in features(*rows))
    got = value_of(**options)(student, teacher)
    expected = formula(student, teacher, **{"variance": "distinct", **options})
    np.testing.assert_allclose(got, expected, rtol=1e-10)


def test_one_trace_serves_all_given_variances():
    loss = value_of()
    for variance in (0.1, 0.5, 3.0):
        expected = formula(*features(), variance)
        np.testing.assert_allclose(loss(*features(), variance=variance), expected, rtol=1e-5)
    assert loss._cache_size() == 1


def test_no_gradient_flows_through_the_variance(x64):
    student, teacher = (x.astype(np.float64) for x in features())
    pooled = np.concatenate(
        [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (student, teacher)]
    )
    squares = ((pooled[:, None] - pooled[None]) ** 2).sum(2)
    got, gradients = jax.device_get(compiled()(student, teacher))
    fixed = compiled()(student, teacher, variance=squares.sum() / (16 * 15))
    np.testing.assert_allclose(got, fixed[0], rtol=1e-10)
    np.testing.assert_allclose(gradients, fixed[1], rtol=0, atol=1e-12)
    # The expected slopes are differences of the formula with a constant variance.
    rng, step = np.random.default_rng(1), 1e-5
    for argument in range(2):
        direction = rng.normal(size=(8, 6))
        shifted = []
        for sign in (1, -1):
            pair = [student, teacher]
            pair[argument] = pair[argument] + sign * step * direction
            shifted.append(formula(*pair, squares.sum() / (16 * 15)))
        slope = (shifted[0] - shifted[1]) / (2 * step)
        np.testing.assert_allclose((gradients[argument] * direction).sum(), slope, rtol=1e-6)


@pytest.mark.parametrize("unbiased", [False, True])
def test_each_network_may_have_its_own_mask(unbiased):
    grad = compiled(unbiased=unbiased)
    student, teacher = features(6, 9)

    def of(where, teacher_where):
        value, gradients = grad(student, teacher, where=where, teacher_where=teacher_where)
        return jax.device_get((value, gradients))

    # One row each is enough for the biased estimate.
    masks = [(np.arange(6) != 2, np.arange(9) % 4 > 0)]
    masks += [(np.arange(6) == 3, np.arange(9) == 4)] * (not unbiased)
    for where, teacher_where in masks:
        student, teacher = features(6, 9)
        expected = formula(student[where], teacher[teacher_where], "distinct", unbiased=unbiased)
        student[~where], teacher[~teacher_where] = np.nan, np.nan
        value, gradients = of(where, teacher_where)
        np.testing.assert_allclose(value, expected, rtol=1e-5)
        assert np.isfinite(gradients[0]).all() and np.isfinite(gradients[1]).all()
        assert not gradients[0][~where].any() and not gradients[1][~teacher_where].any()
    # Too few rows have no loss.
    student, teacher = features(6, 9)
    for rows, teacher_rows in [(0, 9), (6, 0), (0, 0), *([(1, 9), (6, 1)] if unbiased else [])]:
        value, gradients = of(np.arange(6) < rows, np.arange(9) < teacher_rows)
        assert value == 0
        assert not any(map(np.any, gradients))


def test_biased_estimate_is_not_negative():
    student, teacher = features()
    rng = np.random.default_rng(1)
    for noise in (1, 1e-2, 1e-3, 1e-4, 1e-6):
        near = student + noise * rng.normal(size=student.shape)
        for pair in [
            (student, near.astype(np.float32)),
            (student, student[::-1]),
            (student, teacher),
        ]:
            assert value_of()(*pair) >= -1e-6
    # The unbiased estimate is negative for two samples of one distribution.
    assert value_of(unbiased=True)(student, student) < -0.01


def test_features_without_normalization_keep_their_scale_and_accuracy():
    student, teacher = features()
    plain = value_of(normalize=False)
    assert abs(plain(3 * student, teacher) / plain(student, teacher) - 1) > 0.1
    shifted = [(1000 + x / 8).astype(np.float32) for x in (student, teacher)]
    expected = formula(*shifted, "distinct", normalize=False)
    np.testing.assert_allclose(plain(*shifted), expected, rtol=1e-5)


def test_close_distributions_keep_their_distance():
    student, noise = np.random.default_rng(0).normal(size=(2, 64, 32))
    pair = [x.astype(np.float32) for x in (student, student + 0.01 * noise)]
    got = value_of()(*pair)
    with jax.enable_x64(True):
        expected = float(value_of()(*map(np.float64, pair)))
    # The loss is about 1e-6, the kernel sums are up to 5. The measured error is 0.2 %.
    np.testing.assert_allclose(got, expected, rtol=0.02)


ROWS, WIDE = np.zeros((4, 7), np.float32), np.zeros((4, 9), np.float32)


@pytest.mark.parametrize(
    "teacher, options, message",
    [
        (WIDE, {}, r"one width.*\(4, 7\).*\(4, 9\)"),
        (ROWS[0], {}, r"\(4, 7\).*\(7,\)"),
        (ROWS, {"variance": "mean"}, "variance.*'distinct' or 'all' or 'cross'; got 'mean'"),
        (ROWS, {"variance": jnp.ones(2)}, r"variance must be a scalar.*\(2,\)"),
        (ROWS, {"multipliers": ()}, r"multipliers must be one or more positive.*\(\)"),
        (ROWS, {"multipliers": (1, 0)}, r"multipliers must be one or more positive.*\(1, 0\)"),
        (ROWS, {"teacher_where": np.ones(4)}, "teacher_where must be boolean"),
        (ROWS[:3], {"where": np.ones(4, bool)}, r"teacher_where.*\(4,\).*\(3, 7\)"),
    ],
)
def test_errors(teacher, options, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(functools.partial(mk_mmd, **options), ROWS, teacher)
