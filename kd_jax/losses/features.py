"""Losses between the features of one image: embeddings, or maps as vectors."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from kd_jax.losses import _numerics


def feature_l1(student: ArrayLike, teacher: ArrayLike) -> jax.Array:
    """Computes the L1 distance of the features, ||f_i - g_i||_1, a sum over the width.

    Equal features have loss 0 with gradient 0.

    Args:
        student: features [N, D].
        teacher: features [N, D]. If the widths differ, project the student's features first.

    Returns:
        One loss per image, [N]. The paper sums it over the batch.

    Raises:
        ValueError: If the shapes differ or are not [N, D].

    References:
        HORKD, Ge et al., "Look one and more: distilling hybrid order relational knowledge for
        cross-resolution image recognition", AAAI 2020, eq. 2.

    Example:
        >>> import numpy as np
        >>> from kd_jax import losses
        >>> losses.feature_l1(np.array([[1.0, 2.0], [3.0, 4.0]]), np.zeros((2, 2))).tolist()
        [3.0, 7.0]
    """
    student, teacher = _numerics.as_rows(student, teacher)
    return _numerics.absolute(student - teacher).sum(1)


def feature_mse(student: ArrayLike, teacher: ArrayLike) -> jax.Array:
    """Computes the mean squared error of the features, the hint loss of FitNets.

    The loss is mean_k (f_ik - g_ik)^2, over the width of embeddings, or over the height, width and
    channels of maps. It has no factor 1/2 (as in RepDistiller; the paper has one). The caller
    provides the regressor from the student's channels to the teacher's.

    Args:
        student: embeddings [N, D], maps [N, H, W, C], or any other features [N, ...].
        teacher: features of the same kind. The larger map is average-pooled to the smaller.

    Returns:
        One loss per image, [N].

    Raises:
        ValueError: If the shapes do not match.

    References:
        Romero et al., `FitNets: hints for thin deep nets <https://arxiv.org/abs/1412.6550>`_,
        ICLR 2015, eq. 3.

    Example:
        >>> import numpy as np
        >>> from kd_jax import losses
        >>> losses.feature_mse(np.ones((2, 4, 4, 3)), np.zeros((2, 8, 8, 3))).tolist()
        [1.0, 1.0]
    """
    if jnp.ndim(student) == 4:
        student, teacher = _numerics.as_maps(student, teacher, same_channels=True)
    student, teacher = _numerics.upcast(student, teacher)
    fits = student.ndim > 1 and student.shape == teacher.shape
    _numerics.expect(fits, "features must both be [N, ...]", student=student, teacher=teacher)
    return jnp.square(student - teacher).mean(range(1, student.ndim))


def normalized_feature_l2(student: ArrayLike, teacher: ArrayLike) -> jax.Array:
    """Computes the distance of the normalized features, ||f_i / ||f_i|| - g_i / ||g_i||||_2.

    The loss is the distance, not its square, and is in [0, 2]. A row of zeros stays zero. Equal
    normalized features have loss 0 with gradient 0.

    Args:
        student: features [N, D].
        teacher: features [N, D].

    Returns:
        One loss per image, [N].

    Raises:
        ValueError: If the shapes differ or are not [N, D].

    References:
        KDim, Wang et al., "Improved knowledge distillation for training fast low resolution face
        recognition model", ICCVW 2019, eq. 6.

    Example:
        >>> import numpy as np
        >>> from kd_jax import losses
        >>> loss = losses.normalized_feature_l2(np.array([[0.0, 2.0]]), np.array([[3.0, 0.0]]))
        >>> [round(x, 4) for x in loss.tolist()]
        [1.4142]
    """
    student, teacher = map(_numerics.unit_rows, _numerics.as_rows(student, teacher))
    return _numerics.safe_root(jnp.square(_numerics.difference(student, teacher)).sum(1))
