import functools

import compiling
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import FAST

from kd_jax.losses import mk_mmd


def features(rows=8, teacher_rows=8, width=6):
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(size=(rows, width)), 1 + rng.normal(size=(teacher_rows, width))
    return student.astype(np.float32), teacher.astype(np.float32)


compiled = functools.partial(compiling.compiled, mk_mmd)
value_of = functools.partial(compiling.value_of, mk_mmd)


def literal(student, teacher, variance, multipliers=(1, 2, 4, 8, 16), unbiased=False, unit=True):
    """KDim's eq. 8, one pair of rows after the other."""
    x, y = np.float64(student), np.float64(teacher)
    if unit:
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
    "name, variance, dtype",
    [
        ("offdiag", "distinct", np.float32),
        ("offdiag", "distinct", np.float64),
        ("all", "all", np.float64),
        ("cross", "cross", np.float64),
    ],
)
def test_agrees_with_the_papers_equation(golden, agrees, x64, name, variance, dtype):
    student, teacher = (jnp.asarray(golden[k], dtype) for k in ("in_S", "in_T"))
    options = {} if variance == "distinct" else {"variance": variance}  # which is the default
    got = jax.jit(jax.value_and_grad(functools.partial(mk_mmd, **options)), compiler_options=FAST)
    value, gradient = (golden[f"{k}_mkmmd_sum_{name}"] for k in ("val", "grad"))
    agrees(got(student, teacher), value, gradient, dtype)


@pytest.mark.parametrize(
    "rows, options",
    [
        ((8, 8), {"unbiased": True}),
        ((4, 7), {"multipliers": (0.5,), "variance": "all"}),
        ((5, 3), {"normalize": False, "variance": "cross", "multipliers": (1, 3)}),
        ((4, 7), {"normalize": False, "unbiased": True, "variance": "all"}),
    ],
    ids=["unbiased", "one kernel", "as they are", "unbiased as they are"],
)
def test_agrees_with_its_formula(x64, rows, options):
    student, teacher = (x.astype(np.float64) for x in features(*rows))
    got = value_of(**options)(student, teacher)
    options = {"variance": "distinct", **options, "unit": options.get("normalize", True)}
    options.pop("normalize", None)
    np.testing.assert_allclose(got, literal(student, teacher, **options), rtol=1e-10)


def test_one_trace_serves_all_given_variances():
    student, teacher = features()
    traces = []

    @jax.jit
    def loss(variance):
        traces.append(variance)
        return mk_mmd(student, teacher, variance=variance)

    for variance in (0.1, 0.5, 3.0):
        expected = literal(student, teacher, variance)
        np.testing.assert_allclose(loss(variance), expected, rtol=1e-5)
    assert len(traces) == 1


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
    # Both gradients against differences of the formula, with the variance held.
    rng, step = np.random.default_rng(1), 1e-5
    for argument in range(2):
        direction = rng.normal(size=(8, 6))
        shifted = []
        for sign in (1, -1):
            pair = [student, teacher]
            pair[argument] = pair[argument] + sign * step * direction
            shifted.append(literal(*pair, squares.sum() / (16 * 15)))
        slope = (shifted[0] - shifted[1]) / (2 * step)
        np.testing.assert_allclose((gradients[argument] * direction).sum(), slope, rtol=1e-6)


def test_masked_rows_are_as_good_as_absent(leaves_rows_out):
    # The teacher's rows go by the same mask.
    leaves_rows_out(compiled(), *features(12, 12), np.arange(12) % 3 > 0)


@pytest.mark.parametrize("unbiased", [False, True])
def test_each_network_may_have_its_own_mask(unbiased):
    student, teacher = features(6, 9)
    where, teacher_where = np.arange(6) != 2, np.arange(9) % 4 > 0
    expected = literal(student[where], teacher[teacher_where], "distinct", unbiased=unbiased)
    student[~where], teacher[~teacher_where] = np.nan, np.nan
    masks = {"where": where, "teacher_where": teacher_where}
    grad = compiled(unbiased=unbiased)
    value, gradients = jax.device_get(grad(student, teacher, **masks))
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    assert np.isfinite(gradients[0]).all() and np.isfinite(gradients[1]).all()
    assert not gradients[0][~where].any() and not gradients[1][~teacher_where].any()


@pytest.mark.parametrize("unbiased", [False, True])
def test_too_few_rows_are_worth_nothing(unbiased):
    student, teacher = features(6, 9)
    for rows, teacher_rows in [(0, 9), (6, 0), (0, 0), *([(1, 9), (6, 1)] if unbiased else [])]:
        masks = {"where": np.arange(6) < rows, "teacher_where": np.arange(9) < teacher_rows}
        value, gradients = compiled(unbiased=unbiased)(student, teacher, **masks)
        assert value == 0
        assert not any(map(np.any, gradients))


def test_one_row_of_each_is_enough_for_the_biased_estimate():
    student, teacher = features(6, 9)
    masks = {"where": np.arange(6) == 3, "teacher_where": np.arange(9) == 4}
    value, _ = compiled(unbiased=False)(student, teacher, **masks)
    np.testing.assert_allclose(value, literal(student[3:4], teacher[4:5], "distinct"), rtol=1e-5)


@pytest.mark.parametrize("options", [{}, {"variance": "cross"}])
def test_equal_rows_are_at_rest(options):
    student, _ = features()
    rows = np.ones_like(student)
    for pair in [(rows, rows), (0 * rows, 0 * rows), (student, student)]:
        value, gradients = compiled(**options)(*pair)
        np.testing.assert_allclose(value, 0, atol=1e-6)
        np.testing.assert_allclose(gradients, np.zeros((2, 8, 6)), atol=1e-6)


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
            assert compiled()(*pair)[0] >= -1e-6
    # The unbiased one is, for two samples of one distribution.
    assert value_of(unbiased=True)(student, student) < -0.01


def test_size_is_seen_only_without_normalisation():
    student, teacher = features()
    expected, gradients = compiled()(student, teacher)
    for size in np.float32([1e-20, 3, 1e20]):
        value, other = compiled()(size * student, teacher)
        np.testing.assert_allclose(value, expected, rtol=1e-5)
        np.testing.assert_allclose(other[0] * size, gradients[0], atol=1e-6)
    plain = value_of(normalize=False)
    assert abs(plain(3 * student, teacher) / plain(student, teacher) - 1) > 0.1


def test_large_means_cost_no_accuracy():
    student, teacher = features()
    plain = value_of(normalize=False)
    shifted = [(1000 + x / 8).astype(np.float32) for x in (student, teacher)]
    expected = literal(*shifted, "distinct", unit=False)
    np.testing.assert_allclose(plain(*shifted), expected, rtol=1e-5)


def test_near_distributions_keep_their_distance():
    student, noise = np.random.default_rng(0).normal(size=(2, 64, 32))
    pair = [x.astype(np.float32) for x in (student, student + 0.01 * noise)]
    got = value_of()(*pair)
    with jax.enable_x64(True):
        expected = float(value_of()(*map(np.float64, pair)))
    # Some 1e-6 between kernel sums of up to 5 (measured: to 0.2 %).
    np.testing.assert_allclose(got, expected, rtol=0.02)


def test_misuse_is_told():
    rows, wide = np.zeros((4, 7), np.float32), np.zeros((4, 9), np.float32)
    for call, message in [
        (lambda: mk_mmd(rows, wide), r"\(4, 7\).*\(4, 9\)"),
        (lambda: mk_mmd(rows[0], rows), r"\(7,\).*\(4, 7\)"),
        (lambda: mk_mmd(rows, rows, variance="mean"), "'mean'"),
        (lambda: mk_mmd(rows, rows, multipliers=()), "multipliers"),
        (lambda: mk_mmd(rows, rows, multipliers=(1, 0)), "multipliers"),
        (lambda: mk_mmd(rows, rows, where=np.ones(4)), "boolean"),
        (lambda: mk_mmd(rows, rows, teacher_where=np.ones(4)), "teacher_where.*boolean"),
        (
            lambda: mk_mmd(rows, rows[:3], where=np.ones(4, bool)),
            r"teacher_where.*\(4,\).*\(3, 7\)",
        ),
    ]:
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(call)
