"""Relations within a batch: the distances of pairs and the angles of triplets.

HORKD: Ge et al., "Look one and more: distilling hybrid order relational knowledge for
cross-resolution image recognition", AAAI 2020. It averages or sums over distinct tuples.

RKD: Park et al., `Relational knowledge distillation <https://arxiv.org/abs/1904.05068>`_, CVPR
2019. Its code averages over all N^2 pairs and N^3 triplets, including repeated images.

Student and teacher may differ in width, because only relations are compared.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from kd_jax.losses import _batch, _numerics
from kd_jax.losses._triplets import triplet_sum


def rkd_distance(
    student: ArrayLike,
    teacher: ArrayLike,
    *,
    variant: str = "repdistiller",
    where: ArrayLike | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    """Computes RKD-D, the Huber loss between the normalized distances of two images.

    The loss is the mean of Huber(psi(g_i, g_j) - psi(f_i, f_j)), with delta 1, over all N^2 ordered
    pairs, including the N zeros of the diagonal. psi = ||. - .||_2 / mu, where mu is the mean
    distance of the network over the N (N - 1) pairs of different images. The gradient flows through
    mu. Equal features have distance 0 with gradient 0. If all features of a network are equal, its
    psi is 0.

    Args:
        student: features [N, D].
        teacher: features [N, E].
        variant: "repdistiller" uses the features unchanged. "paper" L2-normalizes both first, as in
            the code of the RKD authors for classification.
        where: boolean [N]; rows with False are left out.
        axis_name: name of the mapped axis that splits the batch over devices. Every device returns
            the value of the global batch; average the gradient with `pmean` over this axis.

    Returns:
        A scalar. RepDistiller gives it the weight 25.

    Raises:
        ValueError: If the shapes do not match, the mask is not boolean, or the variant is unknown.

    References:
        RKD, eq. 5 to 7; RepDistiller, `RKD.py`.

    Example:
        >>> import numpy as np
        >>> from kd_jax import losses
        >>> student, teacher = np.array([[0.0], [1.0], [3.0]]), np.array([[0.0], [1.0], [2.0]])
        >>> round(float(losses.rkd_distance(student, teacher)), 4)
        0.0139
    """
    _numerics.one_of("variant", variant, ("repdistiller", "paper"))
    normalize = variant == "paper"
    student, teacher, count = _distances(student, teacher, where, axis_name, normalize)
    gap = _normalized(student, count, axis_name) - _normalized(teacher, count, axis_name)
    total = _batch.sum_devices(_numerics.huber(gap).sum(), axis_name)
    return _batch.reduce_tuples(total, count * count, "mean")


def rkd_angle(
    student: ArrayLike,
    teacher: ArrayLike,
    *,
    variant: str = "repdistiller",
    where: ArrayLike | None = None,
    axis_name: str | None = None,
    chunk_size: int | None = None,
) -> jax.Array:
    """Computes RKD-A, the Huber loss between the cosines of the angles of three images.

    The loss is the mean of Huber(cos g_ijk - cos f_ijk), with delta 1 and the angle at j, over all
    N^3 ordered triples, including those with repeated images. The cosine is 0 if i = j or k = j. If
    i = k it is 1, or 0 if i and j have equal features. Accuracy, cost and derivatives are those of
    `triplet_relation`.

    Args:
        student: features [N, D].
        teacher: features [N, E].
        variant: "repdistiller" uses the features unchanged. "paper" L2-normalizes both first, as in
            the code of the RKD authors for classification.
        where: boolean [N]; rows with False are left out.
        axis_name: name of the mapped axis that splits the batch over devices. Every device returns
            the value of the global batch; average the gradient with `pmean` over this axis.
        chunk_size: see `triplet_relation`.

    Returns:
        A scalar. RepDistiller gives it the weight 50.

    Raises:
        ValueError: If the shapes do not match, the mask is not boolean, the variant is unknown, or
            the chunk size is not positive.

    References:
        RKD, eq. 8 and 9; RepDistiller, `RKD.py`.

    Example:
        >>> import numpy as np
        >>> from kd_jax import losses
        >>> right = np.array([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])  # cosines 0, 3/5 and 4/5
        >>> line = np.array([[0.0], [1.0], [2.0]])  # cosines 1, -1 and 1
        >>> round(float(losses.rkd_angle(right, line)), 4)
        0.12
    """
    _numerics.one_of("variant", variant, ("repdistiller", "paper"))
    normalize = variant == "paper"
    student, teacher, count = _distances(student, teacher, where, axis_name, normalize)
    delta = jnp.ones((), student.dtype)
    total = 2 * _triplets(student, teacher, delta, chunk_size, axis_name)
    # i = k: the cosines differ by 1 if the features of i and j are equal in one network only.
    mismatches = (student > 0) != (teacher > 0)
    mismatched = _batch.sum_devices(mismatches.sum(), axis_name)
    total += mismatched.astype(total.dtype) / 2
    return _batch.reduce_tuples(total, count**3, "mean")


def pair_relation(
    student: ArrayLike,
    teacher: ArrayLike,
    *,
    reduction: str = "mean",
    where: ArrayLike | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    """Computes the squared differences of the normalized distances between two images.

    The loss is the mean or a sum of (psi(f_i, f_j) - psi(g_i, g_j))^2 over the pairs i < j.
    psi = ||. - .||_2 / mu, where mu is the mean distance of the network over these pairs. The
    gradient flows through mu. Equal features have distance 0 with gradient 0. If all features of a
    network are equal, its psi is 0.

    Args:
        student: features [N, D].
        teacher: features [N, E].
        reduction: "mean" over the N (N - 1) / 2 pairs (0 if there are none), their "sum", or their
            sum divided by N, "batchmean".
        where: boolean [N]; rows with False are left out.
        axis_name: name of the mapped axis that splits the batch over devices. Every device returns
            the value of the global batch; average the gradient with `pmean` over this axis.

    Returns:
        A scalar.

    Raises:
        ValueError: If the shapes do not match, the mask is not boolean, or the reduction is
            unknown.

    References:
        HORKD, eq. 3. It takes the square; RKD (`rkd_distance`) takes the Huber loss.

    Example:
        >>> import numpy as np
        >>> from kd_jax import losses
        >>> student, teacher = np.array([[0.0], [1.0], [3.0]]), np.array([[0.0], [1.0], [2.0]])
        >>> round(float(losses.pair_relation(student, teacher)), 4)
        0.0417
    """
    student, teacher, count = _distances(student, teacher, where, axis_name)
    gap = _normalized(student, count, axis_name) - _normalized(teacher, count, axis_name)
    total = _batch.sum_devices(jnp.square(gap).sum(), axis_name) / 2
    return _batch.reduce_tuples(total, count * (count - 1) / 2, reduction, images=count)


def triplet_relation(
    student: ArrayLike,
    teacher: ArrayLike,
    *,
    reduction: str = "mean",
    where: ArrayLike | None = None,
    axis_name: str | None = None,
    huber_delta: ArrayLike = 1.0,
    chunk_size: int | None = None,
) -> jax.Array:
    """Computes the Huber loss between the cosines of the angles of three images.

    The loss is the mean or a sum of Huber(cos f_ijk - cos g_ijk), with the angle at j, over the
    triplets of three distinct images; (i, j, k) and (k, j, i) are one triplet. An angle with a side
    of length 0 has cosine 0 with gradient 0.

    The error of a cosine is at most 16 eps R^2 / d^2, where d is the shorter of its two sides and R
    is the distance of the images from their mean. In float32, a side below 0.3 % of R counts as 0.
    The loss needs O(N^3) operations and O(N^2) memory for any width. It has reverse-mode
    derivatives only.

    Args:
        student: features [N, D].
        teacher: features [N, E].
        reduction: "mean" over the N (N - 1) (N - 2) / 2 triplets (0 if there are none), their
            "sum", or their sum divided by N, "batchmean".
        where: boolean [N]; rows with False are left out.
        axis_name: name of the mapped axis that splits the batch over devices. Every device returns
            the value of the global batch; average the gradient with `pmean` over this axis.
        huber_delta: difference at which the loss changes from quadratic (times 1/2) to linear; may
            be traced, gets no gradient.
        chunk_size: number of images k whose triplets are in memory at once, about 24 N^2 bytes per
            image. The default is the fastest number: on a CPU all images up to N = 64, 8 up to
            N = 128, and 1 above.

    Returns:
        A scalar.

    Raises:
        ValueError: If the shapes do not match, the mask is not boolean, the reduction is unknown,
            or the chunk size is not positive.

    References:
        HORKD, eq. 4 and 5. The angles are those of RKD (`rkd_angle`), which averages over other
        tuples.

    Example:
        >>> import numpy as np
        >>> from kd_jax import losses
        >>> right = np.array([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])  # cosines 0, 3/5 and 4/5
        >>> line = np.array([[0.0], [1.0], [2.0]])  # cosines 1, -1 and 1
        >>> round(float(losses.triplet_relation(right, line)), 4)
        0.54
    """
    student, teacher, count = _distances(student, teacher, where, axis_name)
    delta = _numerics.as_scalar(huber_delta, student, "huber_delta")
    total = _triplets(student, teacher, delta, chunk_size, axis_name)
    triplets = count * (count - 1) * (count - 2) / 2
    return _batch.reduce_tuples(total, triplets, reduction, images=count)


def _distances(
    student: ArrayLike,
    teacher: ArrayLike,
    where: ArrayLike | None,
    axis_name: str | None,
    normalize: bool = False,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns squared distances per network, 0 for masked rows, and the number of images.

    The distances are those from the own rows to all rows of the global batch.
    """
    student, teacher = _numerics.as_rows(student, teacher, same_width=False)
    mask = _numerics.as_mask(where, student)
    distinct = _batch.distinct_pairs(mask, axis_name)

    def squares(features: jax.Array) -> jax.Array:
        features = _numerics.keep_rows(features, mask)
        features = _numerics.unit_rows(features) if normalize else features
        features = _batch.centered(features, mask, _batch.masked_mean(features, mask, axis_name))
        return jnp.where(distinct, _batch.squared_distances(features, axis_name=axis_name), 0)

    count = _batch.sum_devices(mask.sum(), axis_name).astype(student.dtype)
    return squares(student), squares(teacher), count


def _normalized(squares: jax.Array, count: jax.Array, axis_name: str | None) -> jax.Array:
    """Divides the distances by their mean, with the gradient of the mean."""
    distances = _numerics.safe_root(squares)
    total = _batch.sum_devices(distances.sum(), axis_name)
    mean = total / jnp.maximum(count * (count - 1), 1)
    return distances * _numerics.safe_reciprocal(mean)


def _triplets(
    student: jax.Array,
    teacher: jax.Array,
    delta: jax.Array,
    chunk_size: int | None,
    axis_name: str | None,
) -> jax.Array:
    """Returns `triplet_sum` over the global batch, from the own rows of the squared distances."""
    student, teacher = (_batch.gather_rows(x, axis_name) for x in (student, teacher))
    total = triplet_sum(student, teacher, delta, chunk_size, axis_name)
    return _batch.replicated(total, axis_name)
