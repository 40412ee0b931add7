"""Losses between the feature maps [N, H, W, C] of one image.

If student and teacher differ in height or width, the larger map is average-pooled to the smaller.
The caller provides projections between different numbers of channels.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from kd_jax.losses import _numerics

_VARIANTS = ("repdistiller", "paper")


def attention_transfer(
    student: ArrayLike, teacher: ArrayLike, *, power: int = 2, variant: str = "repdistiller"
) -> jax.Array:
    """Computes AT, a distance of the normalized attention maps.

    An attention map is a = Q / ||Q||_2 with Q = mean_c |f_c|^p.

    Args:
        student: maps [N, H, W, C].
        teacher: maps [N, H, W, C'].
        power: p >= 1.
        variant: "repdistiller" is the mean over the positions of (a_s - a_t)^2, as in the code of
            the authors. "paper" is ||a_s - a_t||_2, without the factor beta / 2 of the paper.

    Returns:
        One loss per image, [N]. RepDistiller and the code of the authors sum it over the layers.

    Raises:
        ValueError: If the shapes do not match, the power is less than 1, or the variant is unknown.

    References:
        Zagoruyko and Komodakis, `Paying more attention to attention
        <https://arxiv.org/abs/1612.03928>`_, ICLR 2017, eq. 2; RepDistiller, `AT.py`.

    Example:
        >>> import numpy as np
        >>> from kd_jax import losses
        >>> student, teacher = np.zeros((1, 1, 2, 3)), np.zeros((1, 1, 2, 5))
        >>> student[:, :, 0], teacher[:, :, 1] = 1, 1  # attention at different positions
        >>> [round(x, 4) for x in losses.attention_transfer(student, teacher).tolist()]
        [1.0]
    """
    _numerics.one_of("variant", variant, _VARIANTS)
    if power < 1:
        raise ValueError(f"power must be at least 1; got {power}")
    student, teacher = (_attention(maps, power) for maps in _numerics.as_maps(student, teacher))
    if variant == "repdistiller":
        return jnp.square(student - teacher).mean(1)
    return _numerics.safe_root(jnp.square(_numerics.difference(student, teacher)).sum(1))


def _attention(maps: jax.Array, power: int) -> jax.Array:
    """Returns the normalized mean of |f|^power over the channels, [N, H W]."""
    # The attention does not depend on the scale of an image, but powers can leave float32's range.
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(maps), (1, 2, 3), keepdims=True))
    maps = _numerics.absolute(maps * _numerics.safe_reciprocal(largest))
    return _numerics.unit_rows((maps**power).mean(3).reshape(maps.shape[0], -1))


def factor_transfer(
    student: ArrayLike, teacher: ArrayLike, *, variant: str = "repdistiller"
) -> jax.Array:
    """Computes FT, the L1 distance of the normalized factors.

    Args:
        student: factors [N, H, W, C] of the translator.
        teacher: factors [N, H, W, C] of the paraphraser.
        variant: "repdistiller" averages over the channels first: it is the mean over the positions
            of |a_s - a_t| with a = Q / ||Q||_2 and Q = mean_c f_c^2. The numbers of channels may
            differ. "paper" normalizes the whole factor: it is ||f / ||f||_2 - g / ||g||_2||_1, a
            sum over positions and channels.

    Returns:
        One loss per image, [N].

    Raises:
        ValueError: If the shapes do not match, or the variant is unknown.

    References:
        Kim et al., `Paraphrasing complex network: network compression via factor transfer
        <https://arxiv.org/abs/1802.04977>`_, NeurIPS 2018, eq. 3; RepDistiller, `FT.py`.
    """
    _numerics.one_of("variant", variant, _VARIANTS)
    if variant == "repdistiller":
        maps = _numerics.as_maps(student, teacher)
        student, teacher = (_attention(x, power=2) for x in maps)
        return _numerics.absolute(_numerics.difference(student, teacher)).mean(1)
    maps = _numerics.as_maps(student, teacher, same_channels=True)
    student, teacher = (_numerics.unit_rows(x.reshape(x.shape[0], -1)) for x in maps)
    return _numerics.absolute(_numerics.difference(student, teacher)).sum(1)


def activation_boundary(
    student: ArrayLike, teacher: ArrayLike, *, margin: ArrayLike = 1.0
) -> jax.Array:
    """Computes AB, a squared hinge loss on the signs of the student's pre-activations.

    The loss is 3 / 1000 times the sum, over positions and channels, of (s + m)^2 if t <= 0 and
    s > -m, and of (s - m)^2 if t > 0 and s <= m. The factor is that of RepDistiller; the paper has
    none. An image with NaN or infinity in s or t has the loss NaN.

    Args:
        student: maps [N, H, W, C] before the activation, mapped to the teacher's channels.
        teacher: maps [N, H, W, C] before the activation; only the signs are used.
        margin: m, a scalar; may be traced.

    Returns:
        One loss per image, [N]. RepDistiller gives the last of L layers the weight 1, the layer
        before it 1/2, then 1/4, and so on.

    Raises:
        ValueError: If the shapes do not match.

    References:
        Heo et al., `Knowledge transfer via distillation of activation boundaries formed by hidden
        neurons <https://arxiv.org/abs/1811.03233>`_, AAAI 2019, eq. 5; RepDistiller, `AB.py`.
    """
    student, teacher = _numerics.as_maps(student, teacher, same_channels=True)
    margin = _numerics.as_scalar(margin, student, "margin")
    short = jnp.where(teacher > 0, margin - student, student + margin)
    # A hinge and a sign are finite for infinite numbers, and the sign also for NaN.
    short += _numerics.nan_unless_finite(student) + _numerics.nan_unless_finite(teacher)
    return 0.003 * jnp.square(jnp.maximum(short, 0)).sum((1, 2, 3))


def neuron_selectivity(student: ArrayLike, teacher: ArrayLike) -> jax.Array:
    """Computes NST, the maximum mean discrepancy of the channels' normalized maps.

    The loss is mean_cc' k(s_c, s_c') + mean_cc' k(t_c, t_c') - 2 mean_cc' k(s_c, t_c') with the
    kernel k(x, y) = (x . y)^2. The map of each channel is divided by its L2 norm over the
    positions. The loss is 0 for s = t.

    Args:
        student: maps [N, H, W, C].
        teacher: maps [N, H, W, C'].

    Returns:
        One loss per image, [N].

    Raises:
        ValueError: If the shapes do not match.

    References:
        Huang and Wang, `Like what you like: knowledge distill via neuron selectivity transfer
        <https://arxiv.org/abs/1707.01219>`_, 2017, eq. 7; RepDistiller, `NST.py`.
    """
    maps = _numerics.as_maps(student, teacher)
    student, teacher = (
        _numerics.unit_rows(x.reshape(x.shape[0], -1, x.shape[-1]), axis=1) for x in maps
    )
    if student.shape[1] <= max(student.shape[2], teacher.shape[2]):
        # sum_cc' (x_c . y_c')^2 = <X X^T, Y Y^T>, so the discrepancy is the distance of two means
        # of outer products over the positions. Deep maps have fewer positions than channels.
        student, teacher = (
            jnp.einsum("npc,nqc->npq", x, x, precision=_numerics.HIGHEST) / x.shape[2]
            for x in (student, teacher)
        )
        return jnp.square(student - teacher).sum((1, 2))

    def mean_kernel(x: jax.Array, y: jax.Array) -> jax.Array:
        products = jnp.einsum("npc,npd->ncd", x, y, precision=_numerics.HIGHEST)
        return jnp.square(products).mean((1, 2))

    own = mean_kernel(student, student) + mean_kernel(teacher, teacher)
    return own - 2 * mean_kernel(student, teacher)


def flow_of_solution(student: Sequence[ArrayLike], teacher: Sequence[ArrayLike]) -> jax.Array:
    """Computes FSP, the mean squared error between the Gram matrices of successive maps.

    The Gram matrix of two successive maps x [N, H, W, C] and y [N, H, W, D] is
    G_cd = mean_hw x_hwc y_hwd; the larger map is pooled to the smaller first. The loss is the mean
    over c and d of (G_s - G_t)^2, summed over the pairs of successive maps.

    Args:
        student: two or more maps [N, H_l, W_l, C_l], from shallow to deep.
        teacher: the same number of maps, with the same numbers of channels.

    Returns:
        One loss per image, [N].

    Raises:
        ValueError: If there are fewer than two maps, the numbers of maps differ, or the shapes do
            not match.

    References:
        Yim et al., "A gift from knowledge distillation: fast optimization, network minimization
        and transfer learning", CVPR 2017, eq. 1 and 2; RepDistiller, `FSP.py`.

    Example:
        >>> import numpy as np
        >>> from kd_jax import losses
        >>> maps = np.ones((1, 4, 4, 2))
        >>> losses.flow_of_solution([maps, 3 * maps[:, ::2, ::2]], [maps, maps]).tolist()
        [4.0]
    """
    if len(student) != len(teacher) or len(student) < 2:
        raise ValueError(
            "FSP needs two or more maps, the same number from student and teacher; "
            f"got {len(student)} and {len(teacher)}"
        )
    maps = _numerics.upcast(*student, *teacher)
    student, teacher = maps[: len(student)], maps[len(student) :]

    def flow(shallow: ArrayLike, deep: ArrayLike) -> jax.Array:
        shallow, deep = _numerics.as_maps(shallow, deep)
        positions = shallow.shape[1] * shallow.shape[2]
        sums = jnp.einsum("nhwc,nhwd->ncd", shallow, deep, precision=_numerics.HIGHEST)
        return sums / positions

    def loss(layer: int) -> jax.Array:
        student_flow, teacher_flow = (flow(*x[layer : layer + 2]) for x in (student, teacher))
        fits, rule = student_flow.shape == teacher_flow.shape, "Gram matrices must be [N, C, D]"
        _numerics.expect(fits, rule, student=student_flow, teacher=teacher_flow)
        return jnp.square(student_flow - teacher_flow).mean((1, 2))

    return sum((loss(layer) for layer in range(1, len(student) - 1)), start=loss(0))


def variational_information(
    student: ArrayLike, teacher: ArrayLike, log_scale: ArrayLike, *, epsilon: float = 1e-5
) -> jax.Array:
    """Computes VID, the negative log-likelihood of the teacher's map under a Gaussian.

    The loss is ((mu - t)^2 / v + log v) / 2, averaged over positions and channels, without the
    constant log(2 pi) / 2. Each channel has one variance, v = log(1 + exp(log_scale)) + epsilon.

    Args:
        student: the means mu [N, H, W, C], a regression from the student's map.
        teacher: maps [N, H, W, C].
        log_scale: parameters [C], trained with the student. RepDistiller starts with the variance
            5, for which log_scale is log(exp(5 - epsilon) - 1) = 4.99323.
        epsilon: minimum of the variance.

    Returns:
        One loss per image, [N]. It may be negative if the variances are small.

    Raises:
        ValueError: If the shapes do not match.

    References:
        Ahn et al., `Variational information distillation for knowledge transfer
        <https://arxiv.org/abs/1904.05835>`_, CVPR 2019, eq. 5 and 6; RepDistiller, `VID.py`.

    Example:
        >>> import numpy as np
        >>> from kd_jax import losses
        >>> maps, log_scale = np.ones((1, 4, 4, 2)), np.full(2, np.log(np.e - 1))  # variance 1
        >>> loss = losses.variational_information(3 * maps, maps, log_scale)
        >>> [round(x, 3) for x in loss.tolist()]
        [2.0]
    """
    student, teacher = _numerics.as_maps(student, teacher, same_channels=True)
    student, teacher, log_scale = _numerics.upcast(student, teacher, log_scale)
    fits, rule = log_scale.shape == student.shape[3:], "maps [N, H, W, C] need log_scale [C]"
    _numerics.expect(fits, rule, student=student, log_scale=log_scale)
    variance = (jax.nn.softplus(log_scale) + epsilon)[None, None, None]
    loss = jnp.square(student - teacher) / variance + jnp.log(variance)
    return loss.mean((1, 2, 3)) / 2
