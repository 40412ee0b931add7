"""Distances between the distributions of the student's and the teacher's features."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from kd_jax.losses import _batch, _numerics


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
    """Computes MK-MMD, the squared maximum mean discrepancy with several Gaussian kernels.

    The loss is mean_ii' k(f_i, f_i') + mean_jj' k(g_j, g_j') - 2 mean_ij k(f_i, g_j). The kernel is
    k(x, y) = sum_m exp(-||x - y||^2 / (2 m sigma^2)), a sum, not a mean, over the multipliers m.
    The biased estimate takes each mean over all pairs, including the pairs of a row with itself. It
    is not negative, except for rounding. The loss is 0 if there are too few rows for a mean.

    Args:
        student: features g [N, D].
        teacher: features f [M, D].
        multipliers: positive factors m of the variance.
        variance: sigma^2, a scalar, or one of the following estimates of it. "distinct": the mean
            squared distance over the distinct pairs of the N + M pooled rows. "all": the mean over
            all (N + M)^2 pairs. "cross": the mean over the pairs of a student's and a teacher's
            row. No gradient flows through the variance.
        unbiased: whether to leave out the pairs of a row with itself. The result may be negative.
        normalize: whether to divide each row by its L2 norm first, as KDim does. A row of zeros
            stays zero.
        where: boolean [N]; student's rows with False are left out.
        teacher_where: boolean [M]; teacher's rows with False are left out. Defaults to `where`.
        axis_name: name of the mapped axis that splits the batch over devices. Every device returns
            the value of the global batch; average the gradient with `pmean` over this axis.

    Returns:
        A scalar.

    Raises:
        ValueError: If the shapes do not match, a mask is not boolean, the variance is unknown, or
            the multipliers are empty or not positive.

    References:
        KDim, Wang et al., "Improved knowledge distillation for training fast low resolution face
        recognition model", ICCVW 2019, eq. 8; Long et al., `Learning transferable features with
        deep adaptation networks <https://arxiv.org/abs/1502.02791>`_, ICML 2015.

    Example:
        >>> import numpy as np
        >>> from kd_jax import losses
        >>> student, teacher = np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])
        >>> loss = losses.mk_mmd(student, teacher, multipliers=(1,), variance=2.0)
        >>> round(float(loss), 4)  # 2 - 2 exp(-1 / 2)
        0.7869
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
        return _numerics.unit_rows(features) if normalize else features

    x, y = rows(student, mask), rows(teacher, teacher_mask)
    n, m = (
        _batch.sum_devices(rows.sum(), axis_name).astype(x.dtype) for rows in (mask, teacher_mask)
    )
    *within, across = _all_pairs(x, y, mask, teacher_mask, axis_name)
    if isinstance(variance, str):
        variance = _mean_square(variance, within, across, n, m)
    variance = jax.lax.stop_gradient(_numerics.as_scalar(variance, x, "variance"))
    # Above this limit, a rate would underflow to 0, and its kernel would be 1 for all pairs.
    limit = jnp.finfo(x.dtype).max / (8 * max(multipliers))
    variance = jnp.where(variance > limit, jnp.nan, variance)
    rates = [-_numerics.safe_reciprocal(2 * factor * variance) for factor in multipliers]

    # A constant subtracted from the kernel cancels in the loss, and most rounding errors with it.
    level = sum(math.exp(-1 / (2 * factor)) for factor in multipliers)

    def kernel(squares: jax.Array) -> jax.Array:
        return sum((jnp.exp(rate * squares) for rate in rates), jnp.zeros_like(squares)) - level

    def own(pairs: _Pairs, rows: jax.Array) -> jax.Array:
        if unbiased:
            return pairs.sum(kernel) / jnp.maximum(rows * (rows - 1), 1)
        # k(x, x) = 1 for each of the kernels.
        return (pairs.sum(kernel) + rows * (len(rates) - level)) / jnp.maximum(rows**2, 1)

    between = across.sum(kernel) / jnp.maximum(n * m, 1)
    loss = own(within[0], n) + own(within[1], m) - 2 * between
    return jnp.where(jnp.minimum(n, m) > int(unbiased), loss, 0)


class _Pairs(NamedTuple):
    """Squared distances of the pairs of two sets, and the mask of the pairs to use.

    Attributes:
        squares: squared distances from the own rows of one set to all rows of the other.
        mask: boolean of the same shape.
        axis_name: name of the mapped axis over which the rows are split.
    """

    squares: jax.Array
    mask: jax.Array
    axis_name: str | None

    def sum(
        self, function: Callable[[jax.Array], jax.Array] = lambda squares: squares
    ) -> jax.Array:
        """Sums a function of the squared distances over the pairs of the global batch."""
        total = jnp.where(self.mask, function(self.squares), 0).sum()
        return _batch.sum_devices(total, self.axis_name)


def _all_pairs(
    x: jax.Array, y: jax.Array, mask: jax.Array, other_mask: jax.Array, axis_name: str | None
) -> tuple[_Pairs, _Pairs, _Pairs]:
    """Returns the pairs of two rows of x, of two rows of y, and of a row of x and a row of y."""
    pooled, pooled_mask = jnp.concatenate([x, y]), jnp.concatenate([mask, other_mask])
    shift = _batch.masked_mean(pooled, pooled_mask, axis_name)
    x, y = _batch.centered(x, mask, shift), _batch.centered(y, other_mask, shift)
    own, other = (
        _Pairs(
            _batch.squared_distances(rows, axis_name=axis_name),
            _batch.distinct_pairs(used, axis_name),
            axis_name,
        )
        for rows, used in ((x, mask), (y, other_mask))
    )
    both = mask[:, None] & _batch.gather_rows(other_mask, axis_name)[None]
    return own, other, _Pairs(_batch.squared_distances(x, y, axis_name), both, axis_name)


def _mean_square(
    over: str, within: list[_Pairs], across: _Pairs, n: jax.Array, m: jax.Array
) -> jax.Array:
    """Returns the mean squared distance over the pairs that the option `variance` names."""
    total, count = across.sum(), n * m
    if over != "cross":
        total = within[0].sum() + within[1].sum() + 2 * total
        count = (n + m) * (n + m if over == "all" else n + m - 1)
    return total / jnp.maximum(count, 1)
