"""Relations of HORKD between an image and the centers of the classes."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from kd_jax.losses import _batch, _numerics


def class_centers(
    features: ArrayLike,
    labels: ArrayLike,
    num_classes: int,
    *,
    normalize: bool = False,
    where: ArrayLike | None = None,
    axis_name: str | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Computes the mean feature of each class, u_c.

    Args:
        features: features [N, D].
        labels: integers [N]. An image with a label outside [0, num_classes) is in no class.
        num_classes: number of classes, C.
        normalize: L2-normalize the features first.
        where: boolean [N]; rows with False are left out.
        axis_name: name of the mapped axis that splits the batch over devices.

    Returns:
        The centers [C, D] and the number of images per class [C]. The counts have the dtype of the
        features, so that the centers of several batches can be averaged with the counts as weights.
        A class without images has center 0 and count 0.

    Raises:
        ValueError: If the shapes do not match, the labels are not integers, or the mask is not
            boolean.

    References:
        HORKD, eq. 6.

    Example:
        >>> import numpy as np
        >>> from kd_jax import losses
        >>> features = np.array([[0.0, 2.0], [4.0, 2.0], [1.0, 1.0]])
        >>> centers, counts = losses.class_centers(features, np.array([0, 0, 2]), 3)
        >>> centers.tolist()
        [[2.0, 2.0], [0.0, 0.0], [1.0, 1.0]]
        >>> counts.tolist()
        [2.0, 0.0, 1.0]
    """
    (features,) = _numerics.upcast(features)
    labels = _numerics.as_labels(labels, features)
    mask = _numerics.as_mask(where, features) & (labels >= 0) & (labels < num_classes)
    features = _numerics.keep_rows(features, mask)
    if normalize:
        features = _numerics.unit_rows(features)
    features, labels, mask = (_batch.gather_rows(x, axis_name) for x in (features, labels, mask))
    # Segment `num_classes` does not exist, so these rows are dropped.
    segments = jnp.where(mask, labels, num_classes)
    counts = jax.ops.segment_sum(mask.astype(features.dtype), segments, num_classes)
    sums = jax.ops.segment_sum(features, segments, num_classes)
    counts, sums = (_batch.replicated(x, axis_name) for x in (counts, sums))
    return sums / jnp.maximum(counts, 1)[:, None], counts


def center_relation(
    student: ArrayLike,
    teacher: ArrayLike,
    centers: ArrayLike,
    *,
    present: ArrayLike | None = None,
    reduction: str = "mean",
) -> jax.Array:
    """Compares the distances to the class centers by their squared differences.

    The loss is the mean or the sum of (||f_i - u_c||_2 - ||g_i - u_c||_2)^2 over the classes c. An
    image equal to a center has distance 0 with gradient 0. The distances are not normalized.

    Args:
        student: features [N, D].
        teacher: features [N, D].
        centers: the teacher's class centers [C, D], see `class_centers`.
        present: boolean [C]; classes with False are left out, for example classes without images.
        reduction: "mean" over the classes that are present (0 if there are none), or their "sum".

    Returns:
        One loss per image, [N]. With "mean", its mean over the batch is the mean over the pairs of
        an image and a class. With "sum", its sum over the batch is the sum of the paper.

    Raises:
        ValueError: If the shapes do not match, the mask is not boolean, or the reduction is
            unknown.

    References:
        HORKD, eq. 7.

    Example:
        >>> import numpy as np
        >>> from kd_jax import losses
        >>> student, teacher = np.array([[3.0, 4.0]]), np.array([[0.0, 1.0]])
        >>> loss = losses.center_relation(student, teacher, np.zeros((1, 2)))
        >>> [round(x, 4) for x in loss.tolist()]
        [16.0]
    """
    arrays = student, teacher, centers = _numerics.upcast(student, teacher, centers)
    fits = all(x.ndim == 2 for x in arrays) and student.shape == teacher.shape
    fits = fits and student.shape[1] == centers.shape[1]
    rule = "student and teacher [N, D] need centers [C, D]"
    _numerics.expect(fits, rule, student=student, teacher=teacher, centers=centers)
    _numerics.one_of("reduction", reduction, ("mean", "sum"))
    mask = _numerics.as_mask(present, centers, "present")
    # A common shift changes no distance, so it needs no gradient. It keeps float32 accurate.
    shift = jax.lax.stop_gradient(_batch.masked_mean(centers, mask))
    centers = _numerics.keep_rows(centers - shift, mask)

    def distances(features: jax.Array) -> jax.Array:
        return _numerics.safe_root(_batch.squared_distances(features - shift, centers))

    squares = (distances(student) - distances(teacher)) ** 2
    total = jnp.where(mask[None], squares, 0).sum(1)
    return total / jnp.maximum(mask.sum(), 1).astype(total.dtype) if reduction == "mean" else total
