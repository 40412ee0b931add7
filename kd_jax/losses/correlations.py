"""Correlations of class probabilities, and logits of one mean and one standard deviation."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from kd_jax.losses import _batch, _numerics

# The official code of DIST adds it to the product of the two norms.
_DIST_EPSILON = 1e-8
# The official code of logit standardization adds it to the standard deviation.
_STD_EPSILON = 1e-7


def standardized_logits(logits: ArrayLike) -> jax.Array:
    """Computes the z-scores of the logits of each image, (z - mean(z)) / (std(z) + 1e-7).

    The variance has the divisor C - 1, as in the official code. Equal logits have z-scores 0 with
    gradient 0.

    Args:
        logits: logits [N, C].

    Returns:
        Logits [N, C] of mean 0 and standard deviation 1, for any loss on logits. The official code
        takes a temperature of 2 then.

    Raises:
        ValueError: If the logits are not [N, C], or there are fewer than two classes.

    References:
        Sun et al., `Logit standardization in knowledge distillation
        <https://arxiv.org/abs/2403.01427>`_, CVPR 2024, algorithm 1; official code:
        sunshangquan/logit-standardization-KD.

    Example:
        >>> import numpy as np
        >>> from kd_jax import losses
        >>> scores = losses.standardized_logits(np.array([[1.0, 2.0, 3.0]]))
        >>> [round(x, 4) for x in scores[0].tolist()]
        [-1.0, 0.0, 1.0]
    """
    (logits,) = _numerics.upcast(logits)
    fits = logits.ndim == 2 and logits.shape[1] > 1
    _numerics.expect(fits, "logits must be [N, C], C > 1", logits=logits)
    # A common shift of the logits changes nothing; without it, large equal logits leave a residue.
    shift = jax.lax.stop_gradient(logits.max(1, keepdims=True))
    gap = logits - shift
    gap -= gap.mean(1, keepdims=True)
    squares = jnp.square(gap).sum(1, keepdims=True) / (logits.shape[1] - 1)
    scores = gap / (_numerics.safe_root(squares) + _STD_EPSILON)
    return jnp.where(squares <= 0, 0, scores)


def inter_class_relation(
    student_logits: ArrayLike, teacher_logits: ArrayLike, *, temperature: ArrayLike = 1.0
) -> jax.Array:
    """Computes the distance of the networks' predictions for an image, T^2 (1 - correlation).

    The correlation is Pearson's, over the classes, of softmax(s / T) and softmax(t / T). The
    product of their norms is increased by 1e-8. Equal probabilities have correlation 0 with
    gradient 0.

    Args:
        student_logits: logits [N, C].
        teacher_logits: logits [N, C].
        temperature: T > 0, a scalar; may be traced.

    Returns:
        One loss per image, [N].

    Raises:
        ValueError: If the shapes differ or are not [N, C].

    References:
        DIST, Huang et al., `Knowledge distillation from a stronger teacher
        <https://arxiv.org/abs/2205.10536>`_, NeurIPS 2022, eq. 9; official code: hunto/DIST_KD.
        The factor T^2 is that of its later version for classification.

    Example:
        >>> import numpy as np
        >>> from kd_jax import losses
        >>> student, teacher = np.log([[0.2, 0.3, 0.5]]), np.log([[0.5, 0.3, 0.2]])
        >>> [round(x, 4) for x in losses.inter_class_relation(student, teacher).tolist()]
        [1.9286]
    """
    student, teacher, temperature = _logits(student_logits, teacher_logits, temperature)
    x, y = (_centered_softmax(logits / temperature) for logits in (student, teacher))
    return temperature**2 * (1 - _correlation(x, y, lambda values: values.sum(1)))


def intra_class_relation(
    student_logits: ArrayLike,
    teacher_logits: ArrayLike,
    *,
    temperature: ArrayLike = 1.0,
    where: ArrayLike | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    """Computes the distance of the networks' predictions for a class, T^2 (1 - mean correlation).

    The correlation is Pearson's, over the images of the batch, of one column of softmax(s / T) and
    of softmax(t / T). The mean is over the classes. The product of the norms is increased by 1e-8.
    A class with equal probabilities for all images has correlation 0 with gradient 0.

    Args:
        student_logits: logits [N, C].
        teacher_logits: logits [N, C].
        temperature: T > 0, a scalar; may be traced.
        where: boolean [N]; rows with False are left out.
        axis_name: name of the mapped axis that splits the batch over devices. Every device returns
            the value of the global batch; average the gradient with `pmean` over this axis.

    Returns:
        A scalar, 0 for a batch of one image.

    Raises:
        ValueError: If the shapes differ or are not [N, C], or the mask is not boolean.

    References:
        DIST, Huang et al., `Knowledge distillation from a stronger teacher
        <https://arxiv.org/abs/2205.10536>`_, NeurIPS 2022, eq. 10; official code: hunto/DIST_KD.
    """
    student, teacher, temperature = _logits(student_logits, teacher_logits, temperature)
    mask = _numerics.as_mask(where, student)
    images = _batch.sum_devices(mask.sum(), axis_name)

    def gaps(logits: jax.Array) -> jax.Array:
        """Returns the predictions minus their mean over the images; constant classes are 0."""
        p = jax.nn.softmax(_numerics.keep_rows(logits, mask) / temperature)
        mean = _batch.masked_mean(p, mask, axis_name)
        gap = _numerics.keep_rows(p - mean, mask)
        squares = _batch.sum_devices(jnp.square(gap).sum(0), axis_name)
        rounding = jnp.square(8 * jnp.finfo(p.dtype).eps * mean[0]) * images.astype(p.dtype)
        return jnp.where((squares <= rounding)[None], 0, gap)

    def sums(x: jax.Array) -> jax.Array:
        return _batch.sum_devices(x.sum(0), axis_name)

    x, y = gaps(student), gaps(teacher)
    mean = _correlation(x, y, sums).mean()
    return jnp.where(images > 1, temperature**2 * (1 - mean), 0)


def _logits(
    student: ArrayLike, teacher: ArrayLike, temperature: ArrayLike
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Checks the logits, and returns them and the temperature in one dtype."""
    student, teacher = _numerics.as_rows(student, teacher)
    return student, teacher, _numerics.as_scalar(temperature, student, "temperature")


def _centered_softmax(logits: jax.Array) -> jax.Array:
    """Computes softmax(z) - 1 / C without cancellation for nearly equal logits."""
    gap = logits - jax.lax.stop_gradient(logits.max(1, keepdims=True))
    excess = jnp.expm1(gap)
    return (excess - excess.mean(1, keepdims=True)) / jnp.exp(gap).sum(1, keepdims=True)


def _correlation(x: jax.Array, y: jax.Array, total: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """Computes the correlations of centered numbers; that with zeros only is 0.

    Args:
        x: centered numbers.
        y: centered numbers of the same shape.
        total: sums the numbers of one correlation.
    """
    squares, others = total(x * x), total(y * y)
    constant = (squares <= 0) | (others <= 0)
    # The gradient of zeros would be the other network's numbers, divided by epsilon.
    products = jnp.where(constant, 0, total(x * y))
    return products / (_numerics.safe_root(squares) * _numerics.safe_root(others) + _DIST_EPSILON)
