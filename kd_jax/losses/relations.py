"""Relations within a batch: the distances of pairs and the angles of triplets.

HORKD: Ge et al., "Look one and more: distilling hybrid order relational knowledge for
cross-resolution image recognition", AAAI 2020, which averages or sums over distinct tuples.
RKD: Park et al., `Relational knowledge distillation <https://arxiv.org/abs/1904.05068>`_, CVPR
2019, whose code averages over all N^2 and N^3, repeated images included. Student and teacher may
differ in width: only relations are compared.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from kd_jax.losses import _numerics
from kd_jax.losses._triplets import triplet_sum
from kd_jax.losses.centers import center_relation
from kd_jax.losses.features import feature_l1


def rkd_distance(
    student: ArrayLike,
    teacher: ArrayLike,
    *,
    variant: str = "repdistiller",
    where: ArrayLike | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    """RKD-D: Huber loss between the normalised distances of two images.

    Huber(psi(g_i, g_j) - psi(f_i, f_j)) with delta 1 and psi = ||. - .||_2 / mu, the mean over all
    N^2 ordered pairs, the N zeros of the diagonal included. mu is each network's own mean distance
    over the N (N - 1) others, and the gradient flows through it. Coincident images have distance 0
    with gradient 0; a network whose images all coincide has psi = 0.

    Args:
        student: features [N, D].
        teacher: features [N, E].
        variant: "repdistiller" takes the features as they are; "paper" L2-normalises both first, as
            the RKD authors' code for classification does.
        where: [N], False for rows to leave out.
        axis_name: mapped axis over whose devices the batch is spread; the value is that of the
            global batch on each of them, and the gradient right after a `pmean` over it.

    Returns:
        A scalar; RepDistiller weighs it 25.

    Raises:
        ValueError: the shapes do not fit, the mask is not boolean, the variant is unknown.

    References:
        RKD, eq. 5 to 7; RepDistiller, `RKD.py`.
    """
    _numerics.one_of("variant", variant, ("repdistiller", "paper"))
    normalize = variant == "paper"
    student, teacher, count = _distances(student, teacher, where, axis_name, normalize)
    gap = _normalised(student, count) - _normalised(teacher, count)
    return _numerics.reduce_tuples(_numerics.huber(gap).sum(), count * count, "mean", axis_name)


def rkd_angle(
    student: ArrayLike,
    teacher: ArrayLike,
    *,
    variant: str = "repdistiller",
    where: ArrayLike | None = None,
    axis_name: str | None = None,
    chunk_size: int | None = None,
) -> jax.Array:
    """RKD-A: Huber loss between the cosines of the angles that three images form.

    Huber(cos g_ijk - cos f_ijk) with delta 1, the angle at j, the mean over all N^3 ordered triples
    with repeated images: where i = j or k = j the cosine is 0, and where i = k it is 1, or 0 if i
    and j coincide. Accuracy, cost and derivatives are those of `triplet_relation`.

    Args:
        student: features [N, D].
        teacher: features [N, E].
        variant: "repdistiller" takes the features as they are; "paper" L2-normalises both first, as
            the RKD authors' code for classification does.
        where: [N], False for rows to leave out.
        axis_name: mapped axis over whose devices the batch is spread; the value is that of the
            global batch on each of them, and the gradient right after a `pmean` over it.
        chunk_size: see `triplet_relation`.

    Returns:
        A scalar; RepDistiller weighs it 50.

    Raises:
        ValueError: the shapes do not fit, the mask is not boolean, the variant is unknown, the
            chunk holds nothing.

    References:
        RKD, eq. 8 and 9; RepDistiller, `RKD.py`.
    """
    _numerics.one_of("variant", variant, ("repdistiller", "paper"))
    normalize = variant == "paper"
    student, teacher, count = _distances(student, teacher, where, axis_name, normalize)
    total = 2 * triplet_sum(student, teacher, jnp.ones((), student.dtype), chunk_size)
    # i = k: the cosines differ by 1 where i and j coincide in one network only.
    mismatches = (student > 0) != (teacher > 0)
    total += mismatches.sum().astype(total.dtype) / 2
    return _numerics.reduce_tuples(total, count**3, "mean", axis_name)


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
        HORKD, eq. 3: squared where RKD, `rkd_distance`, has the Huber loss.
    """
    student, teacher, count = _distances(student, teacher, where, axis_name)
    gap = _normalised(student, count) - _normalised(teacher, count)
    total = jnp.square(gap).sum() / 2
    return _numerics.reduce_tuples(total, count * (count - 1) / 2, reduction, axis_name)


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
            default what is fastest: on a CPU all up to N = 64, 8 up to 128, and then one.

    Returns:
        A scalar.

    Raises:
        ValueError: the shapes do not fit, the mask is not boolean, the reduction is unknown, the
            chunk holds nothing.

    References:
        HORKD, eq. 4 and 5; the angles of RKD, `rkd_angle`, which counts them otherwise.
    """
    student, teacher, count = _distances(student, teacher, where, axis_name)
    delta = _numerics.as_scalar(huber_delta, student, "huber_delta")
    total = triplet_sum(student, teacher, delta, chunk_size)
    triplets = count * (count - 1) * (count - 2) / 2
    return _numerics.reduce_tuples(total, triplets, reduction, axis_name)


def hybrid_order(
    student: ArrayLike,
    teacher: ArrayLike,
    centers: ArrayLike,
    *,
    present: ArrayLike | None = None,
    feature_weight: ArrayLike = 1.0,
    pair_weight: ArrayLike = 0.02,
    triplet_weight: ArrayLike = 0.01,
    center_weight: ArrayLike = 1.0,
    reduction: str = "mean",
    where: ArrayLike | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    """HORKD: the relations of one image, two, three, and of an image and the class centres.

    feature_weight L1 + pair_weight L2 + triplet_weight L3 + center_weight L_C, which are
    `feature_l1`, `pair_relation`, `triplet_relation` and `center_relation`, each reduced over its
    own distinct tuples. The paper adds the cross-entropy on the labels.

    Args:
        student: features [N, D].
        teacher: features [N, D].
        centers: the teacher's class centres [C, D], see `class_centers`.
        present: [C], False for the classes to leave out, such as those without images.
        feature_weight: of L1; the paper's ablation is best without it.
        pair_weight: alpha.
        triplet_weight: beta.
        center_weight: gamma.
        reduction: "mean" over the images, pairs, triplets, and images with a class; or their "sum",
            the paper's letter, which grows as N, N^2, N^3 and N C.
        where: [N], False for rows to leave out.
        axis_name: mapped axis over whose devices the batch is spread; the value is that of the
            global batch on each of them, and the gradient right after a `pmean` over it.

    Returns:
        A scalar.

    Raises:
        ValueError: the shapes do not fit, a mask is not boolean, the reduction is unknown.

    References:
        HORKD, eq. 8.
    """
    student, teacher = _numerics.as_rows(student, teacher)
    mask = _numerics.as_mask(where, student)
    student, teacher = (_numerics.keep_rows(x, mask) for x in (student, teacher))
    one = feature_l1(student, teacher)
    center = center_relation(student, teacher, centers, present=present, reduction=reduction)
    coupled = {"reduction": reduction, "where": mask, "axis_name": axis_name}
    terms = [
        (feature_weight, _numerics.reduce_images(one, mask, axis_name, reduction)),
        (pair_weight, pair_relation(student, teacher, **coupled)),
        (triplet_weight, triplet_relation(student, teacher, **coupled)),
        (center_weight, _numerics.reduce_images(center, mask, axis_name, reduction)),
    ]
    return sum(jnp.asarray(weight, term.dtype) * term for weight, term in terms)


def _distances(
    student: ArrayLike,
    teacher: ArrayLike,
    where: ArrayLike | None,
    axis_name: str | None,
    normalize: bool = False,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Squared distances [N, N] in each network, 0 for masked rows, and the number of rows."""
    student, teacher = _numerics.as_rows(student, teacher, same_width=False)
    mask = _numerics.gather_rows(_numerics.as_mask(where, student), axis_name)
    distinct = _numerics.distinct_pairs(mask)

    def squares(features: jax.Array) -> jax.Array:
        features = _numerics.keep_rows(_numerics.gather_rows(features, axis_name), mask)
        features = _numerics.unit_rows(features) if normalize else features
        features = _numerics.centred(features, mask)
        return jnp.where(distinct, _numerics.squared_distances(features), 0)

    return squares(student), squares(teacher), mask.sum().astype(student.dtype)


def _normalised(squares: jax.Array, count: jax.Array) -> jax.Array:
    """The distances over their mean, which the gradient goes through too."""
    distances = _numerics.safe_root(squares)
    mean = distances.sum() / jnp.maximum(count * (count - 1), 1)
    return distances * _numerics.safe_reciprocal(mean)
