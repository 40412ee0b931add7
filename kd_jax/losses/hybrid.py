"""The loss of HORKD: a weighted sum of relations of one, two, three and more images."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from kd_jax.losses import _batch, _numerics
from kd_jax.losses.centers import center_relation
from kd_jax.losses.features import feature_l1
from kd_jax.losses.relations import pair_relation, triplet_relation


def hybrid_order(
    student: ArrayLike,
    teacher: ArrayLike,
    centers: ArrayLike | None,
    *,
    mapped: ArrayLike | None = None,
    present: ArrayLike | None = None,
    feature_weight: ArrayLike = 1.0,
    pair_weight: ArrayLike = 0.02,
    triplet_weight: ArrayLike = 0.01,
    center_weight: ArrayLike = 1.0,
    reduction: str = "batchmean",
    normalize: bool = False,
    where: ArrayLike | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    """Computes the loss of HORKD, without the cross-entropy that the paper adds.

    The loss is feature_weight L1 + pair_weight L2 + triplet_weight L3 + center_weight L_C, with the
    terms `feature_l1`, `pair_relation`, `triplet_relation` and `center_relation`. Each term is
    reduced over its own distinct tuples. A weight that is the number 0 leaves its term out. If a
    weight is a JAX array, its term is always computed, because the weight may be traced.

    L1 and L_C compare the features themselves. If the widths differ, they use `mapped`. L2 and L3
    compare relations within each network and always use `student`.

    Args:
        student: features [N, D].
        teacher: features [N, E].
        centers: the teacher's class centers [C, E], see `class_centers`. None is allowed if
            `center_weight` is 0.
        mapped: the student's features at the teacher's width, [N, E], for L1 and L_C. By default
            `student`; then D = E is required, unless both terms are left out.
        present: boolean [C]; classes with False are left out, for example classes without images.
        feature_weight: weight of L1, a scalar. In the ablation of the paper, 0 is best.
        pair_weight: alpha, a scalar.
        triplet_weight: beta, a scalar.
        center_weight: gamma, a scalar.
        reduction: "sum" over the images, pairs, triplets, and pairs of an image and a class, as in
            the paper; it grows with N, N^2, N^3 and N C. "batchmean" is this sum divided by N, for
            use with a cross-entropy that is a mean over the images. "mean" is the mean over the
            tuples; the paper's weights of pairs and triplets are then too small by factors of
            (N - 1) / 2 and (N - 1) (N - 2) / 2.
        normalize: L2-normalize all features first. The centers must then be those of normalized
            features, see `class_centers`.
        where: boolean [N]; rows with False are left out.
        axis_name: name of the mapped axis that splits the batch over devices. Every device returns
            the value of the global batch; average the gradient with `pmean` over this axis.

    Returns:
        A scalar.

    Raises:
        ValueError: If the shapes do not match, a mask is not boolean, a weight is not a scalar, the
            reduction is unknown, or the centers are missing.

    References:
        HORKD, eq. 8.

    Example:
        >>> import numpy as np
        >>> from kd_jax import losses
        >>> teacher = np.array([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])
        >>> centers, counts = losses.class_centers(teacher, np.array([0, 0, 1]), 2)
        >>> loss = losses.hybrid_order(teacher / 2, teacher, centers, present=counts > 0)
        >>> round(float(loss), 3)
        4.473
    """
    return hybrid_order_and_terms(
        student,
        teacher,
        centers,
        mapped=mapped,
        present=present,
        feature_weight=feature_weight,
        pair_weight=pair_weight,
        triplet_weight=triplet_weight,
        center_weight=center_weight,
        reduction=reduction,
        normalize=normalize,
        where=where,
        axis_name=axis_name,
    )[0]


def hybrid_order_and_terms(
    student: ArrayLike,
    teacher: ArrayLike,
    centers: ArrayLike | None,
    *,
    mapped: ArrayLike | None = None,
    present: ArrayLike | None = None,
    feature_weight: ArrayLike = 1.0,
    pair_weight: ArrayLike = 0.02,
    triplet_weight: ArrayLike = 0.01,
    center_weight: ArrayLike = 1.0,
    reduction: str = "batchmean",
    normalize: bool = False,
    where: ArrayLike | None = None,
    axis_name: str | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Computes `hybrid_order` and its terms.

    The arguments and errors are those of `hybrid_order`. The result has the form that
    `jax.value_and_grad(..., has_aux=True)` expects.

    Returns:
        The scalar of `hybrid_order`, and its unweighted terms: scalars with the names "feature_l1",
        "pair_relation", "triplet_relation" and "center_relation". Terms that a weight of 0 leaves
        out are not computed and not in the dictionary.

    Example:
        >>> import numpy as np
        >>> from kd_jax import losses
        >>> teacher = np.array([[0.0], [1.0], [2.0]])
        >>> student = np.array([[0.0, 0.0], [1.0, 0.0], [3.0, 0.0]])
        >>> loss, terms = losses.hybrid_order_and_terms(
        ...     student, teacher, None, mapped=student[:, :1], center_weight=0
        ... )
        >>> {name: round(float(term), 4) for name, term in terms.items()}
        {'feature_l1': 0.3333, 'pair_relation': 0.0417, 'triplet_relation': 0.0}
        >>> round(float(loss), 4)
        0.3342
    """
    _numerics.one_of("reduction", reduction, _batch.REDUCTIONS)
    weights = {
        "feature_l1": feature_weight,
        "pair_relation": pair_weight,
        "triplet_relation": triplet_weight,
        "center_relation": center_weight,
    }
    used = {name for name, weight in weights.items() if _may_count(weight)}
    student, teacher = _numerics.as_rows(student, teacher, same_width=False)
    mask = _numerics.as_mask(where, student)
    student, teacher = (_numerics.keep_rows(x, mask) for x in (student, teacher))
    features = student
    if used & {"feature_l1", "center_relation"}:
        features = _at_width_of(teacher, student, mapped, mask)
    if normalize:
        student, teacher, features = map(_numerics.unit_rows, (student, teacher, features))
    terms = {}
    if "feature_l1" in used:
        values = feature_l1(features, teacher)
        terms["feature_l1"] = _batch.reduce_images(values, mask, axis_name, reduction)
    if "pair_relation" in used:
        terms["pair_relation"] = pair_relation(
            student, teacher, reduction=reduction, where=mask, axis_name=axis_name
        )
    if "triplet_relation" in used:
        terms["triplet_relation"] = triplet_relation(
            student, teacher, reduction=reduction, where=mask, axis_name=axis_name
        )
    if "center_relation" in used:
        if centers is None:
            raise ValueError("centers must be given unless center_weight is 0")
        over_classes = "mean" if reduction == "mean" else "sum"
        values = center_relation(
            features, teacher, centers, present=present, reduction=over_classes
        )
        terms["center_relation"] = _batch.reduce_images(values, mask, axis_name, reduction)
    weighted = [
        _numerics.as_scalar(weights[name], term, f"weight of {name}") * term
        for name, term in terms.items()
    ]
    zero, *weighted = _numerics.upcast(jnp.zeros((), student.dtype), *weighted)
    return sum(weighted, start=zero), terms


def _may_count(weight: ArrayLike) -> bool:
    """Returns False for a weight that is known to be 0. The value of a JAX array may be unknown."""
    return isinstance(weight, jax.Array) or bool(np.any(weight))


def _at_width_of(
    teacher: jax.Array, student: jax.Array, mapped: ArrayLike | None, mask: jax.Array
) -> jax.Array:
    """Returns the student's features for the terms that need the width of the teacher."""
    if mapped is None:
        rule = "without mapped, student and teacher must both be [N, D]"
        _numerics.expect(student.shape == teacher.shape, rule, student=student, teacher=teacher)
        return student
    (features,) = _numerics.upcast(mapped)
    rule = "mapped must have the shape of teacher"
    _numerics.expect(features.shape == teacher.shape, rule, mapped=features, teacher=teacher)
    return _numerics.keep_rows(features, mask)
