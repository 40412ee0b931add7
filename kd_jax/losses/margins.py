"""Losses of angular classifiers, with a margin between the label and the other classes.

Their inputs are the cosines of the angles theta_j between an embedding and the directions of the
classes. Each loss is the cross-entropy of the logits s cos(theta_j), with a smaller logit for the
label. For predictions and for distillation, the network uses the logits without a margin.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from kd_jax.losses import _numerics
from kd_jax.losses.targets import cross_entropy

LARGEST_FACTOR = 16
"""The greatest margin of `a_softmax`, whose polynomial is computed in as many steps. The paper has
margins up to 4."""


def normalized_softmax(
    cosines: ArrayLike, labels: ArrayLike, *, scale: ArrayLike = 64.0
) -> jax.Array:
    """Computes the cross-entropy of the logits s cos(theta_j), without a margin.

    Args:
        cosines: cos(theta_j), [N, C].
        labels: integers [N] in [0, C).
        scale: s, a scalar; may be traced.

    Returns:
        One loss per example, [N], or NaN if a label is not in [0, C).

    Raises:
        ValueError: If the shapes do not match, or the labels are not integers.

    References:
        Wang et al., `NormFace: L2 hypersphere embedding for face verification
        <https://arxiv.org/abs/1704.06369>`_, ACM MM 2017.

    Example:
        >>> import numpy as np
        >>> from kd_jax import losses
        >>> cosines, labels = np.array([[0.5, 0.5]]), np.array([0])
        >>> [round(x, 4) for x in losses.normalized_softmax(cosines, labels).tolist()]
        [0.6931]
    """
    return cosface(cosines, labels, scale=scale, margin=0.0)


def cosface(
    cosines: ArrayLike, labels: ArrayLike, *, scale: ArrayLike = 64.0, margin: ArrayLike = 0.35
) -> jax.Array:
    """Computes the softmax loss with a margin on the cosine.

    The logit of the label is s (cos(theta) - m).

    Args:
        cosines: cos(theta_j), [N, C].
        labels: integers [N] in [0, C).
        scale: s, a scalar; may be traced.
        margin: m, a scalar; may be traced. The default is that of the paper; insightface uses 0.4.

    Returns:
        One loss per example, [N], or NaN if a label is not in [0, C).

    Raises:
        ValueError: If the shapes do not match, or the labels are not integers.

    References:
        Wang et al., `CosFace: large margin cosine loss for deep face recognition
        <https://arxiv.org/abs/1801.09414>`_, CVPR 2018, eq. 4.

    Example:
        >>> import numpy as np
        >>> from kd_jax import losses
        >>> cosines, labels = np.array([[0.5, 0.5]]), np.array([0])
        >>> loss = losses.cosface(cosines, labels, scale=64.0, margin=0.5)  # logits 0 and 32
        >>> [round(x, 4) for x in loss.tolist()]
        [32.0]
    """
    (cosines,) = _numerics.upcast(cosines)
    margin = _numerics.as_scalar(margin, cosines, "margin")
    scale = _numerics.as_scalar(scale, cosines, "scale")
    return _entropy(cosines, labels, lambda cosine: cosine - margin, scale)


def arcface(
    cosines: ArrayLike, labels: ArrayLike, *, scale: ArrayLike = 64.0, margin: ArrayLike = 0.5
) -> jax.Array:
    """Computes the softmax loss with a margin on the angle.

    The logit of the label is s cos(theta + m). For theta + m > pi, where this cosine would rise
    again, the logit is s (cos(theta) - m sin(m)), as in the code of insightface. At the boundary
    the logit steps down from -s to -s (cos(m) + m sin(m)), and it falls further after it. (Other
    versions of that code let the angle exceed pi, or use the gradient of s cos(theta).)

    The derivative by the cosine grows without bound as theta approaches 0. At theta = 0, and for
    cosines that rounding has made larger than 1, the derivative is s cos(m).

    Args:
        cosines: cos(theta_j), [N, C].
        labels: integers [N] in [0, C).
        scale: s, a scalar; may be traced.
        margin: m in radians, in [0, pi], a scalar; may be traced.

    Returns:
        One loss per example, [N], or NaN if a label is not in [0, C).

    Raises:
        ValueError: If the shapes do not match, or the labels are not integers.

    References:
        Deng et al., `ArcFace: additive angular margin loss for deep face recognition
        <https://arxiv.org/abs/1801.07698>`_, CVPR 2019, eq. 3; deepinsight/insightface at 2e2e8c9,
        `recognition/arcface_torch/losses.py`.
    """
    (cosines,) = _numerics.upcast(cosines)
    margin = _numerics.as_scalar(margin, cosines, "margin")
    scale = _numerics.as_scalar(scale, cosines, "scale")

    def target(cosine: jax.Array) -> jax.Array:
        sine = _numerics.safe_root((1 - cosine) * (1 + cosine))
        within = cosine * jnp.cos(margin) - sine * jnp.sin(margin)
        return jnp.where(cosine > -jnp.cos(margin), within, cosine - margin * jnp.sin(margin))

    return _entropy(cosines, labels, target, scale)


def sphereface_r(
    cosines: ArrayLike, labels: ArrayLike, *, scale: ArrayLike = 30.0, margin: ArrayLike = 1.7
) -> jax.Array:
    """Computes SphereFace-R, the softmax loss with a factor on the angle.

    The logit of the label is s cos(min(m theta, pi)): hard feature normalization and margin v1 of
    the paper. The gradient is that of s cos(theta), because the difference of the two is treated as
    a constant ("characteristic gradient detachment"). The official code multiplies the loss by
    50 / s; use the weight of the loss for this factor.

    Args:
        cosines: cos(theta_j), [N, C].
        labels: integers [N] in [0, C).
        scale: s, a scalar; may be traced.
        margin: m >= 1, a scalar; may be traced.

    Returns:
        One loss per example, [N], or NaN if a label is not in [0, C).

    Raises:
        ValueError: If the shapes do not match, or the labels are not integers.

    References:
        Liu et al., `SphereFace revived: unifying hyperspherical face recognition
        <https://arxiv.org/abs/2109.05565>`_, TPAMI 2022; ydwen/opensphere at 310d889,
        `model/head/spherefacer.py`, `SphereFaceR_H` with `magn_type="v1"`.
    """
    (cosines,) = _numerics.upcast(cosines)
    margin = _numerics.as_scalar(margin, cosines, "margin")
    scale = _numerics.as_scalar(scale, cosines, "scale")

    def target(cosine: jax.Array) -> jax.Array:
        fixed = jax.lax.stop_gradient(cosine)
        angle = jnp.minimum(margin * jnp.arccos(jnp.clip(fixed, -1, 1)), math.pi)
        return cosine + (jnp.cos(angle) - fixed)

    return _entropy(cosines, labels, target, scale)


def a_softmax(
    cosines: ArrayLike,
    norms: ArrayLike,
    labels: ArrayLike,
    *,
    margin: int = 4,
    blend: ArrayLike = 0.0,
) -> jax.Array:
    """Computes A-Softmax, the softmax loss with a factor on the angle and unnormalized embeddings.

    The logits are |x| cos(theta_j). The logit of the label is
    |x| (b cos(theta) + psi(theta)) / (1 + b), with psi(theta) = (-1)^k cos(m theta) - 2k for theta
    in [k pi / m, (k + 1) pi / m]. psi falls from 1 to 1 - 2m. The cosine of m theta is a polynomial
    of cos(theta), so no arc cosine is differentiated. psi has no kinks, because its slope is 0
    where k changes.

    The gradient is that of the loss. (The official Caffe code differs: it rescales the gradient of
    the label's logit by the embedding to a fixed size, and it omits the margin from the gradient by
    the directions of the classes.)

    Args:
        cosines: cos(theta_j), [N, C].
        norms: |x|, the lengths of the embeddings, [N].
        labels: integers [N] in [0, C).
        margin: m, an integer from 1 to 16; 1 is no margin. The polynomial has this degree.
        blend: b >= 0, a scalar; may be traced. Infinity is no margin. Training must start with a
            large value, see `a_softmax_blend`.

    Returns:
        One loss per example, [N], or NaN if a label is not in [0, C).

    Raises:
        ValueError: If the shapes do not match, the labels are not integers, or the margin is not an
            integer from 1 to 16.

    References:
        Liu et al., `SphereFace: deep hypersphere embedding for face recognition
        <https://arxiv.org/abs/1704.08063>`_, CVPR 2017, eq. 7; wy1iu/sphereface,
        `margin_inner_product_layer.cpp`.

    Example:
        >>> import numpy as np
        >>> from kd_jax import losses
        >>> cosines, norms, labels = np.array([[0.5, 0.5]]), np.array([2.0]), np.array([0])
        >>> [round(x, 4) for x in losses.a_softmax(cosines, norms, labels, margin=2).tolist()]
        [2.1269]
    """
    if not isinstance(margin, int) or not 1 <= margin <= LARGEST_FACTOR:
        raise ValueError(f"margin must be an integer from 1 to {LARGEST_FACTOR}; got {margin!r}")
    cosines, norms = _numerics.upcast(cosines, norms)
    blend = _numerics.as_scalar(blend, cosines, "blend")
    fits = cosines.ndim == 2 and norms.shape == cosines.shape[:1]
    _numerics.expect(fits, "cosines [N, C] need norms [N]", cosines=cosines, norms=norms)

    def target(cosine: jax.Array) -> jax.Array:
        # In this form, an infinite blend gives no margin instead of NaN.
        return cosine + (_psi(cosine, margin) - cosine) / (1 + blend)

    return _entropy(cosines, labels, target, norms[:, None])


def a_softmax_blend(
    step: ArrayLike,
    *,
    start: ArrayLike = 1000.0,
    gamma: ArrayLike = 0.12,
    power: ArrayLike = 1.0,
    least: ArrayLike = 5.0,
) -> jax.Array:
    """Computes the blend of `a_softmax` at a training step, the lambda of the official code.

    The blend is max(least, start (1 + gamma t)^-power) with t = step + 1. The defaults are those of
    the released 20-layer network. They reach 5 at t = 1,659 of 28,000; psi then has the weight 1/6.

    Args:
        step: step of the current training stage, from 0; an array of any shape; may be traced.
        start: a scalar; may be traced, like the next three.
        gamma: a scalar.
        power: a scalar.
        least: a scalar.

    Returns:
        The blend, with the shape of step.

    Raises:
        ValueError: If an option is not a scalar.

    References:
        wy1iu/sphereface, `margin_inner_product_layer.cpp` (`iter_` begins at 1).

    Example:
        >>> from kd_jax import losses
        >>> [round(float(losses.a_softmax_blend(step)), 1) for step in (0, 99, 10_000)]
        [892.9, 76.9, 5.0]
    """
    (step,) = _numerics.upcast(step)
    options = {"start": start, "gamma": gamma, "power": power, "least": least}
    start, gamma, power, least = (_numerics.as_scalar(x, step, k) for k, x in options.items())
    return jnp.maximum(start * (1 + gamma * (step + 1)) ** -power, least)


def _psi(cosine: jax.Array, margin: int) -> jax.Array:
    """Computes (-1)^k cos(m theta) - 2k from cos(theta)."""
    k = jnp.zeros_like(cosine)  # a count, so it has no gradient
    for i in range(1, margin):
        k += (cosine < math.cos(i * math.pi / margin)).astype(cosine.dtype)
    before, multiple = jnp.ones_like(cosine), cosine
    for _ in range(margin - 1):
        before, multiple = multiple, 2 * cosine * multiple - before
    return (1 - 2 * (k % 2)) * multiple - 2 * k


def _entropy(
    cosines: jax.Array,
    labels: ArrayLike,
    target: Callable[[jax.Array], jax.Array],
    scale: jax.Array,
) -> jax.Array:
    """Computes the cross-entropy of the scaled cosines, with targets for those of the labels."""
    labels = _numerics.as_labels(labels, cosines)
    replaced = target(_numerics.of_class(cosines, labels))
    own = jnp.arange(cosines.shape[1], dtype=labels.dtype)[None] == labels[:, None]
    return cross_entropy(scale * jnp.where(own, replaced, cosines), labels)
