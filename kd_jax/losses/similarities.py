"""Relations within a batch: matrices of similarities between its images.

Student and teacher may differ in width: only similarities are compared.
"""

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from kd_jax.losses import _numerics


def similarity_preserving(
    student: ArrayLike,
    teacher: ArrayLike,
    *,
    where: ArrayLike | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    """SP: squared differences of the normalised similarity matrices.

    ||G_s / rows - G_t / rows||_F^2 / N^2 with G = F F^T, each row of G divided by its L2 norm.
    Indifferent to the scale, a rotation and the order of the features, not to their mean.

    Args:
        student: embeddings [N, D] or maps [N, H, W, C], which are flattened.
        teacher: embeddings or maps of the same images, of any size.
        where: [N], False for rows to leave out.
        axis_name: mapped axis over whose devices the batch is spread; the value is that of the
            global batch on each of them, and the gradient right after a `pmean` over it.

    Returns:
        A scalar; RepDistiller weighs it 3000, at N = 64.

    Raises:
        ValueError: the shapes do not fit, the mask is not boolean.

    References:
        Tung and Mori, `Similarity-preserving knowledge distillation
        <https://arxiv.org/abs/1907.09682>`_, ICCV 2019, eq. 4; RepDistiller, `SP.py`.
    """
    student, teacher, mask = _batch(student, teacher, where, axis_name)
    gap = _unit_gram(student) - _unit_gram(teacher)
    return _numerics.reduce_tuples(jnp.square(gap).sum(), mask.sum() ** 2, "mean", axis_name)


def _unit_gram(features: jax.Array) -> jax.Array:
    # Their scale does not matter, but the products of tiny and huge ones leave float32's range.
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(features), initial=0))
    features = features * _numerics.safe_reciprocal(largest)
    return _numerics.unit_rows(_numerics.gram(features))


def probabilistic_transfer(
    student: ArrayLike,
    teacher: ArrayLike,
    *,
    epsilon: float = 1e-7,
    where: ArrayLike | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    """PKT: divergence of the conditional probabilities that the cosine similarities define.

    The mean over all N^2 pairs, the diagonal included, of p_ij log((p_ij + e) / (q_ij + e)) with
    p (teacher) and q (student) = (1 + cos) / 2, divided by the sum of each row, and
    cos_ij = x_i . x_j / ((||x_i|| + e) (||x_j|| + e)).

    Args:
        student: embeddings [N, D].
        teacher: embeddings [N, E].
        epsilon: e.
        where: [N], False for rows to leave out.
        axis_name: mapped axis over whose devices the batch is spread; the value is that of the
            global batch on each of them, and the gradient right after a `pmean` over it.

    Returns:
        A scalar; RepDistiller weighs it 30000, at N = 64.

    Raises:
        ValueError: the shapes do not fit, the mask is not boolean.

    References:
        Passalis and Tefas, `Probabilistic knowledge transfer for lightweight deep representation
        learning <https://arxiv.org/abs/1803.10837>`_, ECCV 2018, eq. 4 to 7, where the
        sum is over i != j; RepDistiller, `PKT.py`, the authors' code.
    """
    student, teacher, mask = _batch(student, teacher, where, axis_name)
    both = mask[:, None] & mask[None]

    def probabilities(features: jax.Array) -> jax.Array:
        norms = _numerics.safe_root(jnp.square(features).sum(1, keepdims=True))
        similarities = (1 + _numerics.gram(features / (norms + epsilon))) / 2
        # A cosine of -1 may be rounded below it.
        similarities = jnp.where(both, jnp.maximum(similarities, 0), 0)
        return similarities * _numerics.safe_reciprocal(similarities.sum(1, keepdims=True))

    q, p = probabilities(student), probabilities(teacher)
    # As p - q sums to 0 it may be taken off; near probabilities would cancel otherwise.
    gap = p - q
    total = (p * jnp.log1p(gap / (q + epsilon)) - gap).sum()
    return _numerics.reduce_tuples(total, mask.sum() ** 2, "mean", axis_name)


def correlation_congruence(
    student: ArrayLike,
    teacher: ArrayLike,
    *,
    variant: str = "repdistiller",
    gamma: ArrayLike = 0.4,
    order: int = 2,
    where: ArrayLike | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    """CC: how student and teacher correlate across the images of a batch.

    "repdistiller" is the estimate that the authors gave to its maintainer:
    mean_i sum_k |g_i - f_i|_k |g_i+1 - f_i+1|_k over the N - 1 neighbours in the batch; it depends
    on the order of the images and is 0 for one image.

    "paper" is the mean over all N^2 pairs of (C_s - C_t)^2, C the Gaussian kernel
    exp(-gamma ||x - y||^2) of the normalised features as a Taylor series,
    C_ij = exp(-2 gamma) sum_p (2 gamma)^p / p! (x_i . x_j)^p, p = 0 ... order.

    Args:
        student: embeddings [N, D].
        teacher: embeddings [N, D].
        variant: "repdistiller" or "paper".
        gamma: of the paper's kernel; may be traced.
        order: of the paper's series.
        where: [N], False for rows to leave out.
        axis_name: mapped axis over whose devices the batch is spread; the value is that of the
            global batch on each of them, and the gradient right after a `pmean` over it.

    Returns:
        A scalar; RepDistiller weighs it 0.02, on embeddings that two linear maps bring to 128.

    Raises:
        ValueError: the shapes do not fit, the mask is not boolean, the variant is unknown, the
            order is negative.

    References:
        Peng et al., `Correlation congruence for knowledge distillation
        <https://arxiv.org/abs/1904.01802>`_, ICCV 2019, eq. 7 to 10; RepDistiller, `CC.py`.
    """
    _numerics.one_of("variant", variant, ("repdistiller", "paper"))
    if order < 0:
        raise ValueError(f"order must not be negative; got {order}")
    student, teacher = _numerics.as_rows(student, teacher)
    student, teacher, mask = _batch(student, teacher, where, axis_name)
    if variant == "repdistiller":
        gap = _numerics.absolute(student - teacher)
        # Rows that are left out go to the end, so that those around them become neighbours.
        gap = gap[jnp.argsort(~mask, stable=True)]
        return _numerics.reduce_tuples(
            (gap[:-1] * gap[1:]).sum(), mask.sum() - 1, "mean", axis_name
        )
    gamma = _numerics.as_scalar(gamma, student, "gamma")

    def correlations(features: jax.Array) -> jax.Array:
        products = _numerics.gram(_numerics.unit_rows(features))
        series = sum((2 * gamma) ** p / math.factorial(p) * products**p for p in range(order + 1))
        return jnp.exp(-2 * gamma) * series

    gap = jnp.where(mask[:, None] & mask[None], correlations(student) - correlations(teacher), 0)
    return _numerics.reduce_tuples(jnp.square(gap).sum(), mask.sum() ** 2, "mean", axis_name)


def _batch(
    student: ArrayLike, teacher: ArrayLike, where: ArrayLike | None, axis_name: str | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Both networks' rows [N, D] of the global batch, masked ones zero, and the mask."""
    student, teacher = _numerics.upcast(student, teacher)
    fits = min(student.ndim, teacher.ndim) > 1 and len(student) == len(teacher)
    rule = "student [N, ...] and teacher [N, ...] must hold the same images"
    _numerics.expect(fits, rule, student=student, teacher=teacher)
    mask = _numerics.as_mask(where, student)

    def rows(x: jax.Array) -> jax.Array:
        x = _numerics.keep_rows(x.reshape(len(x), -1), mask)
        return _numerics.gather_rows(x, axis_name)

    return rows(student), rows(teacher), _numerics.gather_rows(mask, axis_name)
