"""Losses on logits: against the labels and against a teacher's softened predictions."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from kd_jax.losses import _numerics


def cross_entropy(logits: ArrayLike, labels: ArrayLike) -> jax.Array:
    """Cross-entropy of the softmax with integer labels, -log softmax(logits)[label].

    Args:
        logits: [N, C].
        labels: [N], integers in [0, C).

    Returns:
        One loss an example, [N]; NaN where a label is not below C.

    Raises:
        ValueError: the shapes do not fit, or the labels are not integers.
    """
    (logits,) = _numerics.upcast(logits)
    labels = _numerics.as_labels(labels, logits)
    scores = jax.nn.log_softmax(logits)
    return -jnp.take_along_axis(scores, labels[:, None], axis=1)[:, 0]


def soft_target_kl(
    student_logits: ArrayLike, teacher_logits: ArrayLike, *, temperature: ArrayLike = 4.0
) -> jax.Array:
    """KL divergence of the teacher's softened predictions from the student's, times T^2.

    KL(softmax(t / T) || softmax(s / T)) * T^2: the factor keeps the size of the gradient as T
    grows. Classes to which the teacher gives no probability (logit -inf) count nothing.

    Args:
        student_logits: [N, C].
        teacher_logits: [N, C].
        temperature: T > 0, a scalar; may be traced.

    Returns:
        One loss an example, [N], summed over the classes. Its mean over the batch is the usual
        KD loss.

    Raises:
        ValueError: the shapes differ, or are not [N, C].

    References:
        Hinton et al., `Distilling the knowledge in a neural network
        <https://arxiv.org/abs/1503.02531>`_, 2015, section 2.
    """
    student, teacher = _numerics.upcast(student_logits, teacher_logits)
    fits = student.ndim == 2 and student.shape == teacher.shape
    _numerics.expect(fits, "logits must both be [N, C]", student=student, teacher=teacher)
    temperature = jnp.asarray(temperature, student.dtype)
    log_q = jax.nn.log_softmax(student / temperature)
    log_p = jax.nn.log_softmax(teacher / temperature)
    p = jnp.exp(log_p)
    # Both logarithms are replaced before the product: 0 * -inf is NaN, and so is its gradient.
    gap = jnp.where(p > 0, log_p, 0) - jnp.where(p > 0, log_q, 0)
    return temperature**2 * (p * gap).sum(1)
