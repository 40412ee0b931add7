"""Metric learning with proxies: one trained vector per class instead of other images."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from kd_jax.losses import _numerics
from kd_jax.losses.targets import cross_entropy


def proxy_nca(
    cosines: ArrayLike,
    labels: ArrayLike,
    *,
    scale: ArrayLike = 1.0,
    variant: str = "pytorch-metric-learning",
) -> jax.Array:
    """Computes the proxy-NCA loss, -log(exp(-s d_y) / sum_c exp(-s d_c)).

    d_c = 2 - 2 cos(theta_c) is the squared distance between the L2-normalized embedding and the
    L2-normalized proxy of class c. y is the class of the image. The sum is over all classes, or
    over the classes c != y in the variant "paper", whose loss may be negative. With one class, the
    loss is 0.

    The variant "pytorch-metric-learning" is `normalized_softmax` with twice the scale.

    Args:
        cosines: cosines between embeddings and proxies, [N, C], see `models.AngularMap`.
        labels: integers [N] in [0, C).
        scale: s, a scalar; may be traced. The paper has no scale. Larger scales train better.
        variant: "pytorch-metric-learning" or "paper".

    Returns:
        One loss per example, [N], or NaN if a label is not in [0, C).

    Raises:
        ValueError: If the shapes do not match, the labels are not integers, or the variant is
            unknown.

    References:
        Movshovitz-Attias et al., `No fuss distance metric learning using proxies
        <https://arxiv.org/abs/1703.07464>`_, ICCV 2017, eq. 4 and section 4.1;
        pytorch-metric-learning 2.9.0, `ProxyNCALoss`.

    Example:
        >>> import numpy as np
        >>> from kd_jax import losses
        >>> cosines, labels = np.array([[1.0, 0.5, 0.5]]), np.array([0])
        >>> [round(x, 4) for x in losses.proxy_nca(cosines, labels).tolist()]  # log(1 + 2 / e)
        [0.5514]
        >>> loss = losses.proxy_nca(cosines, labels, variant="paper")  # log(2 / e)
        >>> [round(x, 4) for x in loss.tolist()]
        [-0.3069]
    """
    _numerics.one_of("variant", variant, ("pytorch-metric-learning", "paper"))
    (cosines,) = _numerics.upcast(cosines)
    labels = _numerics.as_labels(labels, cosines)
    logits = 2 * _numerics.as_scalar(scale, cosines, "scale") * cosines
    if variant == "pytorch-metric-learning" or logits.shape[1] == 1:
        return cross_entropy(logits, labels)
    own = jnp.arange(logits.shape[1], dtype=labels.dtype)[None] == labels[:, None]
    others = jax.nn.logsumexp(jnp.where(own, -jnp.inf, logits), 1)
    return others - _numerics.of_class(logits, labels)[:, 0]
