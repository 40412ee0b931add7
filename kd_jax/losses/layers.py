"""Losses between layers: of all pairs, weighted by attention, or of one pair in several sizes."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from kd_jax.losses import _numerics


def attended_layers(
    student: Sequence[ArrayLike], teacher: Sequence[ArrayLike], attention: ArrayLike
) -> jax.Array:
    """Computes AFD, distances between all pairs of layers of two networks, weighted by attention.

    The loss is sum_t sum_s a_ts mean_hw (v_s - v_t)^2. Here v is the map mean_c f_c^2, divided by
    its L2 norm over the positions. The student's map is average-pooled to the height and width of
    the teacher's map before the division. If it is smaller, its values are repeated by the rule of
    PyTorch's adaptive pooling.

    Args:
        student: S maps [N, H_s, W_s, C_s].
        teacher: T maps [N, H_t, W_t, C_t].
        attention: weights a [N, T, S] of the pairs, which sum to 1 over S.

    Returns:
        One loss per image, [N].

    Raises:
        ValueError: If the shapes do not match.

    References:
        Ji et al., `Show, attend and distill: knowledge distillation via attention-based feature
        matching <https://arxiv.org/abs/2102.02973>`_, AAAI 2021, eq. 4 to 7; official code:
        clovaai/attention-feature-distillation, `distill/AFD.py`.

    Example:
        >>> import numpy as np
        >>> from kd_jax import losses
        >>> student, teacher = np.zeros((1, 1, 2, 3)), np.zeros((1, 1, 2, 5))
        >>> student[:, :, 0], teacher[:, :, 1] = 1, 1
        >>> losses.attended_layers([student], [teacher], np.ones((1, 1, 1))).tolist()
        [1.0]
    """
    if not student or not teacher:
        raise ValueError("AFD needs one map or more of each network")
    *maps, attention = _numerics.upcast(*student, *teacher, attention)
    ours, theirs = maps[: len(student)], maps[len(student) :]
    rule = "maps must be [N, H, W, C] of the same images"
    for x, y in [(x, theirs[0]) for x in ours] + [(ours[0], y) for y in theirs]:
        _numerics.expect(
            x.ndim == y.ndim == 4 and x.shape[0] == y.shape[0], rule, student=x, teacher=y
        )
    fits = attention.shape == (ours[0].shape[0], len(theirs), len(ours))
    _numerics.expect(fits, "attention must be [N, T, S]", attention=attention)
    energies = [_energy(x) for x in ours]
    sizes = [(x.shape[1], x.shape[2]) for x in theirs]
    pooled = {
        size: jnp.stack([_unit_map(_numerics.pool(x, size)) for x in energies], 1)
        for size in dict.fromkeys(sizes)
    }
    loss = jnp.zeros(ours[0].shape[0], attention.dtype)
    for i, (x, size) in enumerate(zip(theirs, sizes, strict=True)):
        target = _unit_map(_energy(x))[:, None]
        distances = jnp.square(_numerics.difference(pooled[size], target)).mean(2)
        loss += (attention[:, i] * distances).sum(1)
    return loss


def _energy(maps: jax.Array) -> jax.Array:
    """Returns the mean [N, H, W, 1] of the squared channels, up to a factor per image."""
    # The result is normalized, but squares could leave the range of float32.
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(maps), (1, 2, 3), keepdims=True))
    maps = maps * _numerics.safe_reciprocal(largest)
    return jnp.square(maps).mean(3, keepdims=True)


def _unit_map(energy: jax.Array) -> jax.Array:
    """Returns the positions [N, H W], divided by their L2 norm."""
    return _numerics.unit_rows(energy.reshape(energy.shape[0], -1))


def hierarchical_context(student: ArrayLike, teacher: ArrayLike) -> jax.Array:
    """Computes the hierarchical context loss of ReviewKD, squared distances in several sizes.

    The loss is (m + m_4 / 2 + m_2 / 4 + m_1 / 8) / (1 + 1/2 + 1/4 + 1/8). Here m is the mean
    squared error over positions and channels, and m_k that of the maps pooled to k x k. Sizes that
    are not smaller than the map are left out, and the divisors 2, 4 and 8 are given to the rest in
    this order.

    Args:
        student: maps [N, H, W, C].
        teacher: maps [N, H, W, C].

    Returns:
        One loss per image, [N].

    Raises:
        ValueError: If the shapes do not match.

    References:
        Chen et al., `Distilling knowledge via knowledge review <https://arxiv.org/abs/2104.09044>`_,
        CVPR 2021, section 3.3; megvii-research/mdistiller, `ReviewKD.py`.

    Example:
        >>> import numpy as np
        >>> from kd_jax import losses
        >>> losses.hierarchical_context(np.ones((1, 4, 4, 2)), np.zeros((1, 4, 4, 2))).tolist()
        [1.0]
    """
    student, teacher = _numerics.as_maps(student, teacher, same_channels=True)
    gap = student - teacher
    total, share, shares = jnp.square(gap).mean((1, 2, 3)), 1.0, 1.0
    for size in (4, 2, 1):
        if size < gap.shape[1]:
            share /= 2
            pooled = _numerics.pool(gap, (size, size))
            total += share * jnp.square(pooled).mean((1, 2, 3))
            shares += share
    return total / shares
