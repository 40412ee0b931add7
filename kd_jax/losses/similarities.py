"""Relations within a batch: matrices of similarities between its images.

Student and teacher may differ in width if only similarities are compared.
"""

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from kd_jax.losses import _batch, _numerics


def similarity_preserving(
    student: ArrayLike,
    teacher: ArrayLike,
    *,
    where: ArrayLike | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    """Computes SP, the squared differences of the normalized similarity matrices.

    The loss is ||G_s - G_t||_F^2 / N^2, where G is F F^T with each row divided by its L2 norm. A
    scale, a rotation and the order of the features do not change the loss; their mean does.

    Args:
        student: embeddings [N, D] or maps [N, H, W, C], which are flattened.
        teacher: embeddings or maps of the same images, of any size.
        where: boolean [N]; rows with False are left out.
        axis_name: name of the mapped axis that splits the batch over devices. Every device returns
            the value of the global batch; average the gradient with `pmean` over this axis.

    Returns:
        A scalar. RepDistiller gives it the weight 3000 with N = 64.

    Raises:
        ValueError: If the shapes do not match, or the mask is not boolean.

    References:
        Tung and Mori, `Similarity-preserving knowledge distillation
        <https://arxiv.org/abs/1907.09682>`_, ICCV 2019, eq. 4; RepDistiller, `SP.py`.

    Example:
        >>> import numpy as np
        >>> from kd_jax import losses
        >>> student, teacher = np.array([[2.0], [2.0]]), np.array([[3.0, 0.0], [0.0, 4.0]])
        >>> round(float(losses.similarity_preserving(student, teacher)), 4)
        0.2929
    """
    student, teacher, mask = _rows(student, teacher, where)
    gap = _unit_gram(student, axis_name) - _unit_gram(teacher, axis_name)
    return _mean_of_pairs(jnp.square(gap).sum(), mask, axis_name)


def _unit_gram(features: jax.Array, axis_name: str | None) -> jax.Array:
    # The scale of the features does not matter, but products of tiny and huge ones leave the range
    # of float32.
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(features), initial=0))
    largest = _batch.gather_rows(largest[None], axis_name).max()  # `pmax` may hide NaN
    features = features * _numerics.safe_reciprocal(largest)
    return _numerics.unit_rows(_batch.gram(features, axis_name))


def probabilistic_transfer(
    student: ArrayLike,
    teacher: ArrayLike,
    *,
    epsilon: float = 1e-7,
    where: ArrayLike | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    """Computes PKT, the divergence of conditional probabilities that come from cosine similarities.

    The loss is the mean of p_ij log((p_ij + e) / (q_ij + e)) over all N^2 pairs, including the
    diagonal. p (teacher) and q (student) are (1 + cos) / 2, divided by the sum of each row, with
    cos_ij = x_i . x_j / ((||x_i|| + e) (||x_j|| + e)).

    Args:
        student: embeddings [N, D].
        teacher: embeddings [N, E].
        epsilon: e, a small positive number.
        where: boolean [N]; rows with False are left out.
        axis_name: name of the mapped axis that splits the batch over devices. Every device returns
            the value of the global batch; average the gradient with `pmean` over this axis.

    Returns:
        A scalar. RepDistiller gives it the weight 30000 with N = 64.

    Raises:
        ValueError: If the shapes do not match, or the mask is not boolean.

    References:
        Passalis and Tefas, `Probabilistic knowledge transfer for lightweight deep representation
        learning <https://arxiv.org/abs/1803.10837>`_, ECCV 2018, eq. 4 to 7, where the
        sum is over i != j; RepDistiller, `PKT.py`, the code of the authors.

    Example:
        >>> import numpy as np
        >>> from kd_jax import losses
        >>> student, teacher = np.array([[2.0], [2.0]]), np.array([[3.0, 0.0], [0.0, 4.0]])
        >>> round(float(losses.probabilistic_transfer(student, teacher)), 4)
        0.0283
    """
    student, teacher, mask = _rows(student, teacher, where)
    both = _batch.pairs(mask, axis_name)

    def probabilities(features: jax.Array) -> jax.Array:
        norms = _numerics.safe_root(jnp.square(features).sum(1, keepdims=True))
        norms += _numerics.nan_unless_finite(norms)  # an overflow would make all cosines 0
        similarities = (1 + _batch.gram(features / (norms + epsilon), axis_name)) / 2
        # Rounding may make a cosine less than -1.
        similarities = jnp.where(both, jnp.maximum(similarities, 0), 0)
        return similarities * _numerics.safe_reciprocal(similarities.sum(1, keepdims=True))

    q, p = probabilities(student), probabilities(teacher)
    # p - q sums to 0, so it may be subtracted. Without it, near-equal probabilities would cancel.
    gap = p - q
    total = (p * jnp.log1p(gap / (q + epsilon)) - gap).sum()
    return _mean_of_pairs(total, mask, axis_name)


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
    """Computes CC, which compares the correlations between the images of a batch.

    Variant "repdistiller" is the estimate that the authors gave to the maintainer of RepDistiller:
    mean_i sum_k |g_i - f_i|_k |g_i+1 - f_i+1|_k over the N - 1 pairs of neighbors in the batch. It
    depends on the order of the images and is 0 for one image.

    Variant "paper" is the mean over all N^2 pairs of (C_s - C_t)^2. C is the Gaussian kernel
    exp(-gamma ||x - y||^2) of the normalized features, as a Taylor series:
    C_ij = exp(-2 gamma) sum_p (2 gamma)^p / p! (x_i . x_j)^p, p = 0 ... order.

    Args:
        student: embeddings [N, D].
        teacher: embeddings [N, D].
        variant: "repdistiller" or "paper".
        gamma: parameter of the paper's kernel; may be traced.
        order: order of the paper's series, at least 0.
        where: boolean [N]; rows with False are left out.
        axis_name: name of the mapped axis that splits the batch over devices. Every device returns
            the value of the global batch; average the gradient with `pmean` over this axis.

    Returns:
        A scalar. RepDistiller gives it the weight 0.02, and maps both embeddings to width 128 by a
        linear layer first.

    Raises:
        ValueError: If the shapes do not match, the mask is not boolean, the variant is unknown, or
            the order is negative.

    References:
        Peng et al., `Correlation congruence for knowledge distillation
        <https://arxiv.org/abs/1904.01802>`_, ICCV 2019, eq. 7 to 10; RepDistiller, `CC.py`.

    Example:
        >>> import numpy as np
        >>> from kd_jax import losses
        >>> student, teacher = np.array([[1.0, 2.0], [3.0, 4.0]]), np.zeros((2, 2))
        >>> round(float(losses.correlation_congruence(student, teacher)), 4)  # 1 * 3 + 2 * 4
        11.0
    """
    _numerics.one_of("variant", variant, ("repdistiller", "paper"))
    if order < 0:
        raise ValueError(f"order must not be negative; got {order}")
    student, teacher = _numerics.as_rows(student, teacher)
    student, teacher, mask = _rows(student, teacher, where)
    if variant == "repdistiller":
        total = _neighbors(_numerics.absolute(student - teacher), mask, axis_name)
        count = _batch.sum_devices(mask.sum(), axis_name)
        return _batch.reduce_tuples(total, count - 1, "mean")
    gamma = _numerics.as_scalar(gamma, student, "gamma")

    def correlations(features: jax.Array) -> jax.Array:
        products = _batch.gram(_numerics.unit_rows(features), axis_name)
        series = sum((2 * gamma) ** p / math.factorial(p) * products**p for p in range(order + 1))
        return jnp.exp(-2 * gamma) * series

    both = _batch.pairs(mask, axis_name)
    gap = jnp.where(both, correlations(student) - correlations(teacher), 0)
    return _mean_of_pairs(jnp.square(gap).sum(), mask, axis_name)


def _neighbors(gap: jax.Array, mask: jax.Array, axis_name: str | None) -> jax.Array:
    """Sums the products of successive rows of the global batch, without the masked rows."""
    # Masked rows move to the end, so the rows around them become neighbors.
    gap = gap[jnp.argsort(~mask, stable=True)]
    total = (gap[:-1] * gap[1:]).sum()
    if axis_name is None:
        return total
    # The neighbor of the last own row is the first row of the next device that has rows.
    first = jax.lax.all_gather(gap[0], axis_name)
    after = jnp.arange(first.shape[0]) > jax.lax.axis_index(axis_name)
    after &= jax.lax.all_gather(mask.any(), axis_name)
    following = jnp.where(after.any(), first[jnp.argmax(after)], 0)
    last = gap[jnp.maximum(mask.sum() - 1, 0)]  # 0 if all own rows are masked
    return jax.lax.psum(total + (last * following).sum(), axis_name)


def _mean_of_pairs(total: jax.Array, mask: jax.Array, axis_name: str | None) -> jax.Array:
    """Divides the sum over the own rows of all N^2 pairs, added over the devices, by N^2."""
    count = _batch.sum_devices(mask.sum(), axis_name)
    return _batch.reduce_tuples(_batch.sum_devices(total, axis_name), count**2, "mean")


def _rows(
    student: ArrayLike, teacher: ArrayLike, where: ArrayLike | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the own rows [N, D] per network (0 if masked), and their mask."""
    student, teacher = _numerics.upcast(student, teacher)
    fits = min(student.ndim, teacher.ndim) > 1 and student.shape[0] == teacher.shape[0]
    rule = "student [N, ...] and teacher [N, ...] must hold the same images"
    _numerics.expect(fits, rule, student=student, teacher=teacher)
    mask = _numerics.as_mask(where, student)
    student, teacher = (
        _numerics.keep_rows(x.reshape(x.shape[0], -1), mask) for x in (student, teacher)
    )
    return student, teacher, mask
