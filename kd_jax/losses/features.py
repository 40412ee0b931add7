"""Losses between the features of one image."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from kd_jax.losses import _numerics


def feature_l1(student: ArrayLike, teacher: ArrayLike) -> jax.Array:
    """L1 distance of the features, ||f_i - g_i||_1, a sum over the feature width.

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
    student, teacher = _numerics.upcast(student, teacher)
    fits = student.ndim == 2 and student.shape == teacher.shape
    _numerics.expect(fits, "features must both be [N, D]", student=student, teacher=teacher)
    gap = student - teacher
    # Not jnp.abs, whose gradient at 0 is 1: equal features are at rest.
    return (gap * jax.lax.stop_gradient(jnp.sign(gap))).sum(1)
