"""Relations of HORKD between an image and the centres of the classes."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from kd_jax.losses import _numerics


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
    # Segment `num_classes` does not exist, so these rows are dropped.
    segments = jnp.where(mask, labels, num_classes)
    counts = jax.ops.segment_sum(mask.astype(features.dtype), segments, num_classes)
    sums = jax.ops.segment_sum(_numerics.keep_rows(features, mask), segments, num_classes)
    counts, sums = (_numerics.replicated(x, axis_name) for x in (counts, sums))
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
