"""Losses between the feature maps [N, H, W, C] of one image.

Where student and teacher differ in height or width, the larger map is average-pooled to the
smaller. Projections between different channel counts are the caller's.
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
    """AT: distance of the normalised attention maps, a = Q / ||Q||_2, Q = mean_c |f_c|^p.

    Args:
        student: maps [N, H, W, C].
        teacher: maps [N, H, W, C'].
        power: p >= 1.
        variant: "repdistiller" is the mean over the positions of (a_s - a_t)^2, as in the authors'
            code; "paper" is ||a_s - a_t||_2, without the paper's factor beta / 2.

    Returns:
        One loss an image, [N]. Both codes sum it over the layers.

    Raises:
        ValueError: the shapes do not fit, the power is not positive, the variant is unknown.

    References:
        Zagoruyko and Komodakis, `Paying more attention to attention
        <https://arxiv.org/abs/1612.03928>`_, ICLR 2017, eq. 2; RepDistiller, `AT.py`.
    """
    _numerics.one_of("variant", variant, _VARIANTS)
    if power < 1:
        raise ValueError(f"power must be at least 1; got {power}")
    student, teacher = (_attention(maps, power) for maps in _numerics.as_maps(student, teacher))
    if variant == "repdistiller":
        return jnp.square(student - teacher).mean(1)
    return _numerics.safe_root(jnp.square(_numerics.difference(student, teacher)).sum(1))


def _attention(maps: jax.Array, power: int) -> jax.Array:
    """Normalised mean of |f|^power over the channels, [N, H W]."""
    # The attention does not depend on an image's scale, but its powers leave float32's range.
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(maps), (1, 2, 3), keepdims=True))
    maps = _numerics.absolute(maps * _numerics.safe_reciprocal(largest))
    return _numerics.unit_rows((maps**power).mean(3).reshape(len(maps), -1))


def factor_transfer(
    student: ArrayLike, teacher: ArrayLike, *, variant: str = "repdistiller"
) -> jax.Array:
    """FT: L1 distance of the normalised factors.

    Args:
        student: factors [N, H, W, C] of the translator.
        teacher: factors [N, H, W, C] of the paraphraser.
        variant: "repdistiller" collapses the channels first, the mean over the positions of
            |a_s - a_t| with a = Q / ||Q||_2, Q = mean_c f_c^2 (C may differ); "paper" normalises
            the whole factor, ||f / ||f||_2 - g / ||g||_2||_1, a sum over positions and channels.

    Returns:
        One loss an image, [N].

    Raises:
        ValueError: the shapes do not fit, the variant is unknown.

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
    student, teacher = (_numerics.unit_rows(x.reshape(len(x), -1)) for x in maps)
    return _numerics.absolute(_numerics.difference(student, teacher)).sum(1)


def activation_boundary(
    student: ArrayLike, teacher: ArrayLike, *, margin: ArrayLike = 1.0
) -> jax.Array:
    """AB: squared hinge that draws the student's pre-activations to the teacher's side of 0.

    3 / 1000 times the sum over positions and channels of (s + m)^2 where t <= 0 and s > -m, and of
    (s - m)^2 where t > 0 and s <= m. The factor is RepDistiller's; the paper has none.

    Args:
        student: maps [N, H, W, C] before the activation, in the teacher's channels.
        teacher: maps [N, H, W, C] before the activation; only its signs count.
        margin: m, a scalar; may be traced.

    Returns:
        One loss an image, [N]. RepDistiller weighs the last of L layers 1, the one before 1/2,
        then 1/4 and so on.

    Raises:
        ValueError: the shapes do not fit.

    References:
        Heo et al., `Knowledge transfer via distillation of activation boundaries formed by hidden
        neurons <https://arxiv.org/abs/1811.03233>`_, AAAI 2019, eq. 5; RepDistiller, `AB.py`.
    """
    student, teacher = _numerics.as_maps(student, teacher, same_channels=True)
    margin = _numerics.as_scalar(margin, student, "margin")
    short = jnp.where(teacher > 0, margin - student, student + margin)
    return 0.003 * jnp.square(jnp.maximum(short, 0)).sum((1, 2, 3))


def neuron_selectivity(student: ArrayLike, teacher: ArrayLike) -> jax.Array:
    """NST: maximum mean discrepancy of the channels' normalised maps, kernel k(x, y) = (x . y)^2.

    mean_cc' k(s_c, s_c') + mean_cc' k(t_c, t_c') - 2 mean_cc' k(s_c, t_c'), each channel's map
    divided by its L2 norm over the positions. Zero at s = t.

    Args:
        student: maps [N, H, W, C].
        teacher: maps [N, H, W, C'].

    Returns:
        One loss an image, [N].

    Raises:
        ValueError: the shapes do not fit.

    References:
        Huang and Wang, `Like what you like: knowledge distill via neuron selectivity transfer
        <https://arxiv.org/abs/1707.01219>`_, 2017, eq. 7; RepDistiller, `NST.py`.
    """
    maps = _numerics.as_maps(student, teacher)
    student, teacher = (
        _numerics.unit_rows(x.reshape(len(x), -1, x.shape[-1]), axis=1) for x in maps
    )
    if student.shape[1] <= max(student.shape[2], teacher.shape[2]):
        # sum_cc' (x_c . y_c')^2 = <X X^T, Y Y^T>: the discrepancy is the distance of two means of
        # outer products over the positions, of which deep maps have fewer than channels.
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
    """FSP: mean squared error between the Gram matrices of successive maps.

    G_cd = mean_hw x_hwc y_hwd of two successive maps x [N, H, W, C] and y [N, H, W, D], the larger
    pooled to the smaller; the mean over c and d of (G_s - G_t)^2, summed over successive maps.

    Args:
        student: two or more maps [N, H_l, W_l, C_l], from shallow to deep.
        teacher: as many maps, with the same channels.

    Returns:
        One loss an image, [N].

    Raises:
        ValueError: fewer than two maps, not as many of each, or shapes that do not fit.

    References:
        Yim et al., "A gift from knowledge distillation: fast optimization, network minimization
        and transfer learning", CVPR 2017, eq. 1 and 2; RepDistiller, `FSP.py`.
    """
    if len(student) != len(teacher) or len(student) < 2:
        raise ValueError(
            f"FSP needs two or more maps, as many of each; got {len(student)} and {len(teacher)}"
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
    """VID: negative log-likelihood of the teacher's map under a Gaussian around the student's.

    ((mu - t)^2 / v + log v) / 2 with one variance a channel, v = log(1 + exp(log_scale)) + epsilon,
    averaged over positions and channels; without the constant log(2 pi) / 2.

    Args:
        student: the means mu [N, H, W, C], a regression from the student's map.
        teacher: maps [N, H, W, C].
        log_scale: [C], trained with the student. RepDistiller starts from a variance of 5, which is
            log(exp(5 - epsilon) - 1) = 4.99323.
        epsilon: floor of the variance.

    Returns:
        One loss an image, [N]; negative where the variances are small.

    Raises:
        ValueError: the shapes do not fit.

    References:
        Ahn et al., `Variational information distillation for knowledge transfer
        <https://arxiv.org/abs/1904.05835>`_, CVPR 2019, eq. 5 and 6; RepDistiller, `VID.py`.
    """
    student, teacher = _numerics.as_maps(student, teacher, same_channels=True)
    student, teacher, log_scale = _numerics.upcast(student, teacher, log_scale)
    fits, rule = log_scale.shape == student.shape[3:], "maps [N, H, W, C] need log_scale [C]"
    _numerics.expect(fits, rule, student=student, log_scale=log_scale)
    variance = (jax.nn.softplus(log_scale) + epsilon)[None, None, None]
    loss = jnp.square(student - teacher) / variance + jnp.log(variance)
    return loss.mean((1, 2, 3)) / 2
