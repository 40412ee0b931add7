"""Distances between the distributions of the student's and the teacher's features."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from kd_jax.losses import _numerics


def mk_mmd(
    student: ArrayLike,
    teacher: ArrayLike,
    *,
    multipliers: Sequence[float] = (1, 2, 4, 8, 16),
    variance: str | ArrayLike = "distinct",
    unbiased: bool = False,
    normalize: bool = True,
    where: ArrayLike | None = None,
    teacher_where: ArrayLike | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    """MK-MMD: squared maximum mean discrepancy of two sets of features, several Gaussian kernels.

    mean_ii' k(f_i, f_i') + mean_jj' k(g_j, g_j') - 2 mean_ij k(f_i, g_j) with
    k(x, y) = sum_m exp(-||x - y||^2 / (2 m sigma^2)) over the multipliers m, a sum and not a mean.
    The biased estimate takes every mean over all pairs, those of a row with itself included, and
    is not negative but for rounding. 0 where there are too few rows for a mean.

    Args:
        student: features g [N, D].
        teacher: features f [M, D].
        multipliers: m, of the variance.
        variance: where sigma^2 comes from; it carries no gradient. "distinct": the mean squared
            distance over the distinct pairs of the N + M pooled rows; "all": over all (N + M)^2;
            "cross": over the pairs of a student's and a teacher's row; or its value, a scalar.
        unbiased: leaves out the pairs of a row with itself; may be negative.
        normalize: divides each row by its L2 norm first, as KDim does; a row of zeros stays.
        where: [N], False for student's rows to leave out.
        teacher_where: [M], the same for the teacher's; `where` if there is none.
        axis_name: mapped axis over whose devices the batch is spread; the value is that of the
            global batch on each of them, and the gradient right after a `pmean` over it.

    Returns:
        A scalar.

    Raises:
        ValueError: the shapes do not fit, a mask is not boolean, the variance is unknown, there is
            no multiplier, or one that is not positive.

    References:
        KDim, Wang et al., "Improved knowledge distillation for training fast low resolution face
        recognition model", ICCVW 2019, eq. 8; Long et al., `Learning transferable features with
        deep adaptation networks <https://arxiv.org/abs/1502.02791>`_, ICML 2015.
    """
    student, teacher = _numerics.upcast(student, teacher)
    fits = student.ndim == teacher.ndim == 2 and student.shape[1] == teacher.shape[1]
    rule = "student [N, D] and teacher [M, D] must have one width"
    _numerics.expect(fits, rule, student=student, teacher=teacher)
    if not multipliers or min(multipliers) <= 0:
        raise ValueError(f"multipliers must be one or more positive numbers; got {multipliers}")
    if isinstance(variance, str):
        _numerics.one_of("variance", variance, ("distinct", "all", "cross"))
    mask = _numerics.as_mask(where, student)
    teacher_where = where if teacher_where is None else teacher_where
    teacher_mask = _numerics.as_mask(teacher_where, teacher, "teacher_where")

    def rows(features: jax.Array, mask: jax.Array) -> jax.Array:
        features = _numerics.keep_rows(features, mask)
        features = _numerics.unit_rows(features) if normalize else features
        return _numerics.gather_rows(features, axis_name)

    x, y = rows(student, mask), rows(teacher, teacher_mask)
    mask, teacher_mask = (_numerics.gather_rows(m, axis_name) for m in (mask, teacher_mask))
    pooled, pooled_mask = jnp.concatenate([x, y]), jnp.concatenate([mask, teacher_mask])
    shift = _numerics.masked_mean(pooled, pooled_mask)
    x, y = _numerics.centred(x, mask, shift), _numerics.centred(y, teacher_mask, shift)
    n, m = mask.sum().astype(x.dtype), teacher_mask.sum().astype(x.dtype)

    within = [
        _Pairs(_numerics.squared_distances(x), _numerics.distinct_pairs(mask)),
        _Pairs(_numerics.squared_distances(y), _numerics.distinct_pairs(teacher_mask)),
    ]
    across = _Pairs(_numerics.squared_distances(x, y), mask[:, None] & teacher_mask[None])
    if isinstance(variance, str):
        total, count = across.sum(), n * m
        if variance != "cross":
            total = sum(pairs.sum() for pairs in within) + 2 * total
            count = (n + m) * (n + m if variance == "all" else n + m - 1)
        variance = total / jnp.maximum(count, 1)
    variance = jax.lax.stop_gradient(_numerics.as_scalar(variance, x, "variance"))
    rates = [-_numerics.safe_reciprocal(2 * factor * variance) for factor in multipliers]

    # A constant taken off the kernel cancels in the sum of the means, and with it most rounding.
    level = sum(math.exp(-1 / (2 * factor)) for factor in multipliers)

    def kernel(squares: jax.Array) -> jax.Array:
        return sum(jnp.exp(rate * squares) for rate in rates) - level

    def own(pairs: _Pairs, rows: jax.Array) -> jax.Array:
        if unbiased:
            return pairs.sum(kernel) / jnp.maximum(rows * (rows - 1), 1)
        # k(x, x) = 1 for each of the kernels.
        return (pairs.sum(kernel) + rows * (len(rates) - level)) / jnp.maximum(rows**2, 1)

    between = across.sum(kernel) / jnp.maximum(n * m, 1)
    loss = own(within[0], n) + own(within[1], m) - 2 * between
    loss = jnp.where(jnp.minimum(n, m) > int(unbiased), loss, 0)
    return _numerics.replicated(loss, axis_name)


class _Pairs(NamedTuple):
    """Squared distances of the pairs of two sets, and which pairs count."""

    squares: jax.Array
    mask: jax.Array

    def sum(self, function: Callable[[jax.Array], jax.Array] = lambda squares: squares):
        return jnp.where(self.mask, function(self.squares), 0).sum()
