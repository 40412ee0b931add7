"""Losses between the features of one image: embeddings, or whole maps taken as vectors."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from kd_jax.losses import _numerics


def feature_l1(student: ArrayLike, teacher: ArrayLike) -> jax.Array:
    """L1 distance of the features, ||f_i - g_i||_1, a sum over the feature width.

    Zero with gradient zero where the features are equal.

    Args:
        student: features [N, D].
        teacher: features [N, D]; where its width differs, project the student to it first.

    Returns:
        One loss an image, [N]. The paper sums it over the batch.

    Raises:
        ValueError: the shapes differ, or are not [N, D].

    References:
        HORKD, Ge et al., "Look one and more: distilling hybrid order relational knowledge for
        cross-resolution image recognition", AAAI 2020, eq. 2.
    """
    student, teacher = _numerics.as_rows(student, teacher)
    return _numerics.absolute(student - teacher).sum(1)


def feature_mse(student: ArrayLike, teacher: ArrayLike) -> jax.Array:
    """Mean squared error of the features, the hint loss of FitNets.

    mean_k (f_ik - g_ik)^2 over the width of embeddings, or over height, width and channels of
    maps, without the paper's 1/2 (as in RepDistiller). The regressor from the student's channels
    to the teacher's is the caller's.

    Args:
        student: embeddings [N, D], maps [N, H, W, C], or any other [N, ...].
        teacher: the same; the larger map is average-pooled to the smaller.

    Returns:
        One loss an image, [N].

    Raises:
        ValueError: the shapes do not fit.

    References:
        Romero et al., `FitNets: hints for thin deep nets <https://arxiv.org/abs/1412.6550>`_,
        ICLR 2015, eq. 3.
    """
    if jnp.ndim(student) == 4:
        student, teacher = _numerics.as_maps(student, teacher, same_channels=True)
    student, teacher = _numerics.upcast(student, teacher)
    fits = student.ndim > 1 and student.shape == teacher.shape
    _numerics.expect(fits, "features must both be [N, ...]", student=student, teacher=teacher)
    return jnp.square(student - teacher).mean(range(1, student.ndim))


def normalized_feature_l2(student: ArrayLike, teacher: ArrayLike) -> jax.Array:
    """Distance of the normalised features, ||f_i / ||f_i|| - g_i / ||g_i||||_2, from 0 to 2.

    The distance itself, not its square; a row of zeros stays zero. Zero with gradient zero where
    the normalised features are equal.

    Args:
        student: features [N, D].
        teacher: features [N, D].

    Returns:
        One loss an image, [N].

    Raises:
        ValueError: the shapes differ, or are not [N, D].

    References:
        KDim, Wang et al., "Improved knowledge distillation for training fast low resolution face
        recognition model", ICCVW 2019, eq. 6.
    """
    student, teacher = map(_numerics.unit_rows, _numerics.as_rows(student, teacher))
    return _numerics.safe_root(jnp.square(_numerics.difference(student, teacher)).sum(1))
