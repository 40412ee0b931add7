"""Relations of HORKD: between two images, three images, and an image and the class centres.

HORKD: Ge et al., "Look one and more: distilling hybrid order relational knowledge for
cross-resolution image recognition", AAAI 2020. Student and teacher may differ in width where only
relations are compared.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from kd_jax.losses import _numerics
from kd_jax.losses._triplets import triplet_sum


def pair_relation(
    student: ArrayLike,
    teacher: ArrayLike,
    *,
    reduction: str = "mean",
    where: ArrayLike | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    """Squared differences of the normalised distances between two images.

    (psi(f_i, f_j) - psi(g_i, g_j))^2 with psi = ||. - .||_2 / mu, over the pairs i < j. mu is each
    network's own mean distance over these pairs, and the gradient flows through it. Coincident
    images have distance 0 with gradient 0; a network whose images all coincide has psi = 0.

    Args:
        student: features [N, D].
        teacher: features [N, E].
        reduction: "mean" over the N (N - 1) / 2 pairs, 0 if there is none, or their "sum".
        where: [N], False for rows to leave out.
        axis_name: mapped axis over whose devices the batch is spread; the value is that of the
            global batch on each of them, and the gradient right after a `pmean` over it.

    Returns:
        A scalar.

    Raises:
        ValueError: the shapes do not fit, the mask is not boolean, the reduction is unknown.

    References:
        HORKD, eq. 3; distances as in RKD, Park et al., CVPR 2019, but squared, not Huber.
    """
    student, teacher, count = _distances(student, teacher, where, axis_name)
    pairs = count * (count - 1) / 2

    def normalised(squares: jax.Array) -> jax.Array:
        distances = _numerics.safe_root(squares)
        mean = distances.sum() / 2 / jnp.maximum(pairs, 1)
        return distances * _numerics.safe_reciprocal(mean)

    total = ((normalised(student) - normalised(teacher)) ** 2).sum() / 2
    return _numerics.reduce_tuples(total, pairs, reduction)


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
    """Huber loss between the cosines of the angles that three images form.

    Huber(cos f_ijk, cos g_ijk), the angle at j, over the triplets of three distinct images, where
    (i, j, k) and (k, j, i) are one. An angle with a side of length 0 has cosine 0 with gradient 0.
    A cosine is good to 16 eps R^2 / d^2, d the shorter of its two sides and R the images' distance
    from their mean; in float32 a side below 0.3 % of R counts as 0. Takes O(N^3) operations and
    O(N^2) memory whatever the width, and has reverse-mode derivatives only.

    Args:
        student: features [N, D].
        teacher: features [N, E].
        reduction: "mean" over the N (N - 1) (N - 2) / 2 triplets, 0 if there is none, or "sum".
        where: [N], False for rows to leave out.
        axis_name: mapped axis over whose devices the batch is spread; the value is that of the
            global batch on each of them, and the gradient right after a `pmean` over it.
        huber_delta: where the loss turns from squared (times 1/2) to linear; may be traced, gets
            no gradient.
        chunk_size: images k whose triplets are in memory at once, some 24 N^2 bytes each. By
            default all up to N = 64 and then one, which is the fastest on a CPU.

    Returns:
        A scalar.

    Raises:
        ValueError: the shapes do not fit, the mask is not boolean, the reduction is unknown, the
            chunk holds nothing.

    References:
        HORKD, eq. 4 and 5; angles as in RKD, Park et al., CVPR 2019.
    """
    student, teacher, count = _distances(student, teacher, where, axis_name)
    images = len(student)
    if chunk_size is None:
        chunk_size = images if images <= 64 else 1
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be positive; got {chunk_size}")
    delta = jnp.asarray(huber_delta, student.dtype)
    total = triplet_sum(student, teacher, delta, min(chunk_size, images))
    return _numerics.reduce_tuples(total, count * (count - 1) * (count - 2) / 2, reduction)


def class_centers(
    features: ArrayLike,
    labels: ArrayLike,
    num_classes: int,
    *,
    where: ArrayLike | None = None,
    axis_name: str | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Mean feature of each class, u_c.

    Args:
        features: [N, D].
        labels: [N], integers; an image whose label is not in [0, num_classes) belongs to no class.
        num_classes: C.
        where: [N], False for rows to leave out.
        axis_name: mapped axis over whose devices the batch is spread.

    Returns:
        The centres [C, D] and the number of images in each class [C], in the features' dtype so
        that batches can be averaged by weight. A class without images has centre 0 and count 0.

    Raises:
        ValueError: the shapes do not fit, the labels are not integers, the mask is not boolean.

    References:
        HORKD, eq. 6.
    """
    (features,) = _numerics.upcast(features)
    labels = _numerics.as_labels(labels, features)
    mask = _numerics.as_mask(where, features)
    features, labels, mask = (_numerics.gather_rows(x, axis_name) for x in (features, labels, mask))
    mask &= (labels >= 0) & (labels < num_classes)
    # Segment `num_classes` does not exist, so these rows are dropped; negative ones would wrap.
    segments = jnp.where(mask, labels, num_classes)
    counts = jax.ops.segment_sum(mask.astype(features.dtype), segments, num_classes)
    sums = jax.ops.segment_sum(_numerics.keep_rows(features, mask), segments, num_classes)
    return sums / jnp.maximum(counts, 1)[:, None], counts


def center_relation(
    student: ArrayLike,
    teacher: ArrayLike,
    centers: ArrayLike,
    *,
    present: ArrayLike | None = None,
    reduction: str = "mean",
) -> jax.Array:
    """Squared differences of the distances to the class centres.

    (||f_i - u_c||_2 - ||g_i - u_c||_2)^2, over the classes c; an image on a centre has distance 0
    with gradient 0. The distances are not normalised.

    Args:
        student: features [N, D].
        teacher: features [N, D].
        centers: the teacher's class centres [C, D], see `class_centers`.
        present: [C], False for the classes to leave out, such as those without images.
        reduction: "mean" over the classes that are present, 0 if there is none, or their "sum".

    Returns:
        One loss an image, [N]. Its mean over the batch, with "mean", is the mean over the pairs of
        an image and a class; its sum, with "sum", the paper's.

    Raises:
        ValueError: the shapes do not fit, the mask is not boolean, the reduction is unknown.

    References:
        HORKD, eq. 7.
    """
    arrays = student, teacher, centers = _numerics.upcast(student, teacher, centers)
    fits = all(x.ndim == 2 for x in arrays) and student.shape == teacher.shape
    fits = fits and student.shape[1] == centers.shape[1]
    rule = "student and teacher [N, D] need centers [C, D]"
    _numerics.expect(fits, rule, student=student, teacher=teacher, centers=centers)
    mask = _numerics.as_mask(present, centers, "present")
    # A common shift changes no distance, hence no gradient, and keeps the float32 products exact.
    shift = jax.lax.stop_gradient(_numerics.masked_mean(centers, mask))
    centers = _numerics.keep_rows(centers - shift, mask)

    def distances(features: jax.Array) -> jax.Array:
        return _numerics.safe_root(_numerics.squared_distances(features - shift, centers))

    squares = (distances(student) - distances(teacher)) ** 2
    total = jnp.where(mask[None], squares, 0).sum(1)
    return _numerics.reduce_tuples(total, mask.sum(), reduction)


def _distances(
    student: ArrayLike, teacher: ArrayLike, where: ArrayLike | None, axis_name: str | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Squared distances [N, N] in each network, 0 for masked rows, and the number of rows."""
    student, teacher = _numerics.upcast(student, teacher)
    fits = student.ndim == teacher.ndim == 2 and len(student) == len(teacher)
    rule = "student [N, D] and teacher [N, E] must hold the same images"
    _numerics.expect(fits, rule, student=student, teacher=teacher)
    mask = _numerics.gather_rows(_numerics.as_mask(where, student), axis_name)
    distinct = mask[:, None] & mask[None] & ~jnp.eye(len(mask), dtype=bool)

    def squares(features: jax.Array) -> jax.Array:
        features = _numerics.gather_rows(features, axis_name)
        # A common shift changes no distance, hence no gradient.
        shift = jax.lax.stop_gradient(_numerics.masked_mean(features, mask))
        features = _numerics.keep_rows(features - shift, mask)
        return jnp.where(distinct, _numerics.squared_distances(features, features), 0)

    return squares(student), squares(teacher), mask.sum().astype(student.dtype)
