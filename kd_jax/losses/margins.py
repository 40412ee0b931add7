"""Losses of classifiers by angle, which ask for a margin between an image and the other classes.

They take the cosines of the angles theta_j between an embedding and the directions of the classes,
and are cross-entropies of s cos(theta_j), but for the label's logit, which is made smaller. What
the network tells otherwise, to users and to a student, are the logits without a margin.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from kd_jax.losses import _numerics
from kd_jax.losses.targets import cross_entropy


def normalized_softmax(
    cosines: ArrayLike, labels: ArrayLike, *, scale: ArrayLike = 64.0
) -> jax.Array:
    """Cross-entropy of the logits s cos(theta_j), without a margin.

    Args:
        cosines: cos(theta_j), [N, C].
        labels: [N], integers in [0, C).
        scale: s, a scalar; may be traced.

    Returns:
        One loss an example, [N]; NaN where a label is not in [0, C).

    Raises:
        ValueError: the shapes do not fit, or the labels are not integers.

    References:
        Wang et al., `NormFace: L2 hypersphere embedding for face verification
        <https://arxiv.org/abs/1704.06369>`_, ACM MM 2017.
    """
    return cosface(cosines, labels, scale=scale, margin=0.0)


def cosface(
    cosines: ArrayLike, labels: ArrayLike, *, scale: ArrayLike = 64.0, margin: ArrayLike = 0.35
) -> jax.Array:
    """Softmax with a margin of the cosine: the label's logit is s (cos(theta) - m).

    Args:
        cosines: cos(theta_j), [N, C].
        labels: [N], integers in [0, C).
        scale: s, a scalar; may be traced.
        margin: m, a scalar; may be traced. The default is the paper's, insightface's is 0.4.

    Returns:
        One loss an example, [N]; NaN where a label is not in [0, C).

    Raises:
        ValueError: the shapes do not fit, or the labels are not integers.

    References:
        Wang et al., `CosFace: large margin cosine loss for deep face recognition
        <https://arxiv.org/abs/1801.09414>`_, CVPR 2018, eq. 4.
    """
    (cosines,) = _numerics.upcast(cosines)
    margin = _numerics.as_scalar(margin, cosines, "margin")
    scale = _numerics.as_scalar(scale, cosines, "scale")
    return _entropy(cosines, labels, lambda cosine: cosine - margin, scale)


def arcface(
    cosines: ArrayLike, labels: ArrayLike, *, scale: ArrayLike = 64.0, margin: ArrayLike = 0.5
) -> jax.Array:
    """Softmax with a margin of the angle: the label's logit is s cos(theta + m).

    Where theta + m > pi, and the cosine would rise again, it is s (cos(theta) - m sin(m)) instead,
    as in insightface's code: a step down from -s to -s (cos(m) + m sin(m)), then on falling. (Other
    versions of that code let the angle pass pi, or take the gradient of s cos(theta).) The slope
    in the cosine grows without bound towards theta = 0; at theta = 0 itself, and where rounding has
    brought the cosine beyond 1, it is s cos(m).

    Args:
        cosines: cos(theta_j), [N, C].
        labels: [N], integers in [0, C).
        scale: s, a scalar; may be traced.
        margin: m in radians, from 0 to pi, a scalar; may be traced.

    Returns:
        One loss an example, [N]; NaN where a label is not in [0, C).

    Raises:
        ValueError: the shapes do not fit, or the labels are not integers.

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
    """Softmax with a factor on the angle: the label's logit is s cos(min(m theta, pi)).

    SphereFace-R with hard feature normalisation and its margin v1. The gradient is that of
    s cos(theta): the difference is a constant ("characteristic gradient detachment"). The official
    code multiplies the loss by 50 / s, which is left to the weight of the loss.

    Args:
        cosines: cos(theta_j), [N, C].
        labels: [N], integers in [0, C).
        scale: s, a scalar; may be traced.
        margin: m >= 1, a scalar; may be traced.

    Returns:
        One loss an example, [N]; NaN where a label is not in [0, C).

    Raises:
        ValueError: the shapes do not fit, or the labels are not integers.

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
    """A-Softmax: softmax with a factor on the angle, of embeddings that keep their length.

    The logits are |x| cos(theta_j), the label's is |x| (b cos(theta) + psi(theta)) / (1 + b) with
    psi(theta) = (-1)^k cos(m theta) - 2k for theta in [k pi / m, (k + 1) pi / m], which falls from
    1 to 1 - 2m. The cosine of m theta is a polynomial of cos(theta), so that no arc cosine is
    differentiated; psi has no kinks, because its slope is 0 where k changes. The gradient is the
    true one. (The official Caffe code rescales that of the label's logit in the embedding to a
    fixed size, and leaves the margin out of that in the classes' directions.)

    Args:
        cosines: cos(theta_j), [N, C].
        norms: |x|, the lengths of the embeddings, [N].
        labels: [N], integers in [0, C).
        margin: m, a whole number from 1; no margin at 1.
        blend: b >= 0, a scalar; may be traced. Training needs it large in the beginning, see
            `a_softmax_blend`; no margin at infinity.

    Returns:
        One loss an example, [N]; NaN where a label is not in [0, C).

    Raises:
        ValueError: the shapes do not fit, the labels are not integers, or the margin is no whole
            number from 1.

    References:
        Liu et al., `SphereFace: deep hypersphere embedding for face recognition
        <https://arxiv.org/abs/1704.08063>`_, CVPR 2017, eq. 7; wy1iu/sphereface,
        `margin_inner_product_layer.cpp`.
    """
    if not isinstance(margin, int) or margin < 1:
        raise ValueError(f"margin must be a whole number from 1; got {margin!r}")
    cosines, norms = _numerics.upcast(cosines, norms)
    blend = _numerics.as_scalar(blend, cosines, "blend")
    fits = cosines.ndim == 2 and norms.shape == cosines.shape[:1]
    _numerics.expect(fits, "cosines [N, C] need norms [N]", cosines=cosines, norms=norms)

    def target(cosine: jax.Array) -> jax.Array:
        # So written, an infinite blend is none of the margin, and not NaN.
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
    """The blend of `a_softmax` at a step of training, the official code's lambda.

    max(least, start (1 + gamma t)^-power) with t = step + 1. The defaults, those of the released
    20-layer network, reach 5 at t = 1,659 of 28,000; from there on psi weighs 1/6.

    Args:
        step: of training, from 0, of the current stage: a scalar or of any shape; may be traced.
        start: a scalar; may be traced, as all that follow.
        gamma: a scalar.
        power: a scalar.
        least: a scalar.

    Returns:
        The blend, of the step's shape.

    Raises:
        ValueError: one of the options is no scalar.

    References:
        wy1iu/sphereface, `margin_inner_product_layer.cpp` (`iter_` begins at 1).
    """
    (step,) = _numerics.upcast(step)
    options = {"start": start, "gamma": gamma, "power": power, "least": least}
    start, gamma, power, least = (_numerics.as_scalar(x, step, k) for k, x in options.items())
    return jnp.maximum(start * (1 + gamma * (step + 1)) ** -power, least)


def _psi(cosine: jax.Array, margin: int) -> jax.Array:
    """(-1)^k cos(m theta) - 2k from cos(theta)."""
    k = jnp.zeros_like(cosine)  # a count, so without gradient
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
    """Cross-entropy of the scaled cosines, those of the labels replaced by their targets."""
    labels = _numerics.as_labels(labels, cosines)
    replaced = target(_numerics.of_class(cosines, labels))
    own = jnp.arange(cosines.shape[1], dtype=labels.dtype)[None] == labels[:, None]
    return cross_entropy(scale * jnp.where(own, replaced, cosines), labels)
