"""Losses on logits: cross-entropy with labels, and divergences from a teacher's predictions."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from kd_jax.losses import _numerics


def cross_entropy(logits: ArrayLike, labels: ArrayLike) -> jax.Array:
    """Computes the cross-entropy with integer labels, -log softmax(logits)[label].

    Args:
        logits: logits [N, C].
        labels: integers [N] in [0, C).

    Returns:
        One loss per example, [N], or NaN if a label is not in [0, C).

    Raises:
        ValueError: If the shapes do not match, or the labels are not integers.

    Example:
        >>> import numpy as np
        >>> from kd_jax import losses
        >>> [round(x, 4) for x in losses.cross_entropy(np.zeros((1, 2)), np.array([1])).tolist()]
        [0.6931]
    """
    (logits,) = _numerics.upcast(logits)
    labels = _numerics.as_labels(labels, logits)
    scores = jax.nn.log_softmax(logits)
    return -_numerics.of_class(scores, labels)[:, 0]


def soft_target_kl(
    student_logits: ArrayLike, teacher_logits: ArrayLike, *, temperature: ArrayLike = 4.0
) -> jax.Array:
    """Computes the KL divergence between the softened predictions, times T^2.

    The loss is KL(softmax(t / T) || softmax(s / T)) * T^2. The factor T^2 keeps the size of the
    gradient as T grows. Classes with teacher probability 0 (logit -inf) add nothing.

    Args:
        student_logits: logits [N, C].
        teacher_logits: logits [N, C].
        temperature: T > 0, a scalar; may be traced.

    Returns:
        One loss per example, [N], summed over the classes. Its mean over the batch is the usual
        KD loss.

    Raises:
        ValueError: If the shapes differ or are not [N, C].

    References:
        Hinton et al., `Distilling the knowledge in a neural network
        <https://arxiv.org/abs/1503.02531>`_, 2015, section 2.

    Example:
        >>> import numpy as np
        >>> from kd_jax import losses
        >>> student, teacher = np.log([[0.2, 0.8]]), np.log([[0.5, 0.5]])
        >>> [round(x, 4) for x in losses.soft_target_kl(student, teacher, temperature=1.0).tolist()]
        [0.2231]
    """
    student, teacher, temperature = _softened(student_logits, teacher_logits, temperature)
    return temperature**2 * _divergence(student, teacher)


def soft_target_cross_entropy(
    student_logits: ArrayLike, teacher_logits: ArrayLike, *, temperature: ArrayLike = 4.0
) -> jax.Array:
    """Computes the cross-entropy between the softened predictions.

    The loss is -sum_c softmax(t / T)_c log softmax(s / T)_c, without the factor T^2 of
    `soft_target_kl`. Its gradient by the student's logits is that of `soft_target_kl`, divided by
    T^2. Classes with teacher probability 0 (logit -inf) add nothing.

    Args:
        student_logits: logits [N, C].
        teacher_logits: logits [N, C].
        temperature: T > 0, a scalar; may be traced.

    Returns:
        One loss per example, [N], summed over the classes.

    Raises:
        ValueError: If the shapes differ or are not [N, C].

    References:
        KDim, Wang et al., "Improved knowledge distillation for training fast low resolution face
        recognition model", ICCVW 2019, eq. 3.
    """
    student, teacher, _ = _softened(student_logits, teacher_logits, temperature)
    p = jnp.exp(teacher)
    return -(p * jnp.where(p == 0, 0, student)).sum(1)


def decoupled_kd(
    student_logits: ArrayLike,
    teacher_logits: ArrayLike,
    labels: ArrayLike,
    *,
    alpha: ArrayLike = 1.0,
    beta: ArrayLike = 8.0,
    temperature: ArrayLike = 4.0,
) -> jax.Array:
    """Computes DKD, the KL divergence in two parts: for the label and for the other classes.

    The loss is (alpha TCKD + beta NCKD) T^2. With p = softmax(t / T), q = softmax(s / T) and the
    label y, TCKD is KL((p_y, 1 - p_y) || (q_y, 1 - q_y)), and NCKD is the KL divergence of the
    predictions among the classes other than y. For alpha = 1 and beta = 1 - p_y, the loss is that
    of `soft_target_kl` (eq. 7).

    Args:
        student_logits: logits [N, C].
        teacher_logits: logits [N, C].
        labels: integers [N] in [0, C).
        alpha: weight of TCKD, a scalar or one weight per example [N]; may be traced.
        beta: weight of NCKD, a scalar or one weight per example [N]; may be traced. The default is
            the official value for ResNet-32x4 -> ResNet-8x4 on CIFAR-100. The official code
            increases the weight of the loss linearly over the first 20 epochs.
        temperature: T > 0, a scalar; may be traced.

    Returns:
        One loss per example, [N], or NaN if a label is not in [0, C).

    Raises:
        ValueError: If the shapes do not match, or the labels are not integers.

    References:
        Zhao et al., `Decoupled knowledge distillation <https://arxiv.org/abs/2203.08679>`_,
        CVPR 2022, eq. 5 to 8; official code: megvii-research/mdistiller.

    Example:
        >>> import numpy as np
        >>> from kd_jax import losses
        >>> student, teacher = np.log([[0.2, 0.3, 0.5]]), np.log([[0.4, 0.3, 0.3]])
        >>> loss = losses.decoupled_kd(student, teacher, np.array([0]), beta=2.0, temperature=1.0)
        >>> [round(x, 4) for x in loss.tolist()]
        [0.1692]
    """
    student, teacher, temperature = _softened(student_logits, teacher_logits, temperature)
    labels = _numerics.as_labels(labels, student)
    alpha, beta = (jnp.asarray(weight, student.dtype) for weight in (alpha, beta))
    fits = {alpha.shape, beta.shape} <= {(), labels.shape}
    _numerics.expect(fits, "alpha and beta must be scalars or [N]", alpha=alpha, beta=beta)
    others = jnp.arange(student.shape[1], dtype=labels.dtype)[None] != labels[:, None]

    def split(scores: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns log(1 - p_y), and the log predictions among the other classes."""
        scores = jnp.where(others, scores, -jnp.inf)
        largest = jax.lax.stop_gradient(scores.max(1, keepdims=True, initial=-jnp.inf))
        largest = jnp.where(largest == -jnp.inf, 0, largest)
        total = jnp.exp(scores - largest).sum(1, keepdims=True)
        # The gradient of `logsumexp` is not finite if all other classes have probability 0.
        rest = largest + jnp.log(jnp.where(total == 0, 1, total))
        return jnp.where(total == 0, -jnp.inf, rest), scores - rest

    (student_rest, student_others), (teacher_rest, teacher_others) = split(student), split(teacher)
    own = [_numerics.of_class(scores, labels) for scores in (student, teacher)]
    target = _divergence(
        jnp.concatenate([own[0], student_rest], 1), jnp.concatenate([own[1], teacher_rest], 1)
    )
    return temperature**2 * (alpha * target + beta * _divergence(student_others, teacher_others))


def _softened(
    student_logits: ArrayLike, teacher_logits: ArrayLike, temperature: ArrayLike
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the log softened predictions of both networks, and the temperature in their dtype."""
    student, teacher = _numerics.upcast(student_logits, teacher_logits)
    fits = student.ndim == 2 and student.shape == teacher.shape
    _numerics.expect(fits, "logits must both be [N, C]", student=student, teacher=teacher)
    temperature = _numerics.as_scalar(temperature, student, "temperature")
    student, teacher = (jax.nn.log_softmax(x / temperature) for x in (student, teacher))
    return student, teacher, temperature


def _divergence(log_q: jax.Array, log_p: jax.Array) -> jax.Array:
    """Computes KL(p || q) of each row from the logarithms."""
    p, q = jnp.exp(log_p), jnp.exp(log_q)
    seen = p != 0  # also for NaN
    # Both logarithms are replaced before the product: 0 * -inf is NaN, and so is its gradient.
    ratio = jnp.where(seen, log_p, 0) - jnp.where(seen, log_q, 0)
    # q - p sums to 0, so it may be added. Each term is then about the square of a small log ratio.
    # Without it, the terms of near-equal predictions would cancel.
    near = jnp.abs(ratio) < 1
    small = jnp.where(near, ratio, 0)
    terms = jnp.where(near, p * (small + jnp.expm1(-small)), p * (ratio - 1) + q)
    return jnp.where(seen.any(1), jnp.where(seen, terms, q).sum(1), 0)
