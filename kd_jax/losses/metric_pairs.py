"""Metric learning with all pairs of a batch.

All losses need O(N^2 D) operations, for the distances or similarities, and O(N^2) memory.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from kd_jax.losses import _batch, _mining, _numerics


def contrastive_pairs(
    embeddings: ArrayLike,
    labels: ArrayLike,
    *,
    positive_margin: ArrayLike = 0.0,
    negative_margin: ArrayLike = 1.0,
    variant: str = "pytorch-metric-learning",
    normalize: bool = False,
    where: ArrayLike | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    """Computes the contrastive loss: positives within a distance, negatives outside of another.

    With the Euclidean distance d and [x]_+ = max(0, x), ties having slope 0:

    - "pytorch-metric-learning": the mean of [d - positive_margin]_+ over the positive pairs where
      it is not 0, plus the mean of [negative_margin - d]_+ over the negative pairs where it is not
      0.
    - "paper": the mean over all pairs of [d - positive_margin]_+^2 / 2 or
      [negative_margin - d]_+^2 / 2. The paper has positive_margin 0 and the sum over the pairs.

    Args:
        embeddings: [N, D].
        labels: integers [N].
        positive_margin: a scalar; may be traced.
        negative_margin: a scalar; may be traced.
        variant: "pytorch-metric-learning" or "paper".
        normalize: L2-normalize the embeddings first, as pytorch-metric-learning does.
        where: boolean [N]; rows with False are left out.
        axis_name: name of the mapped axis that splits the batch over devices. Every device returns
            the value of the global batch; average the gradient with `pmean` over this axis.

    Returns:
        A scalar, 0 if there is no pair.

    Raises:
        ValueError: If the shapes do not match, the labels are not integers, the mask is not
            boolean, or the variant is unknown.

    References:
        Hadsell et al., "Dimensionality reduction by learning an invariant mapping", CVPR 2006,
        eq. 4; pytorch-metric-learning 2.9.0, `ContrastiveLoss`.

    Example:
        >>> import numpy as np
        >>> from kd_jax import losses
        >>> embeddings, labels = np.array([[0.0], [0.5], [0.8]]), np.array([0, 0, 1])
        >>> loss = losses.contrastive_pairs(embeddings, labels)  # 0.5 + (0.2 + 0.7) / 2
        >>> round(float(loss), 4)
        0.95
    """
    variants = ("pytorch-metric-learning", "paper")
    _numerics.one_of("variant", variant, variants)
    x, labels, mask = _mining.as_embeddings(embeddings, labels, where, normalize)
    inner = _numerics.as_scalar(positive_margin, x, "positive_margin")
    outer = _numerics.as_scalar(negative_margin, x, "negative_margin")
    distances, positive, negative = _mining.measured_pairs(x, labels, mask, axis_name)
    near = _mining.hinge(distances - inner, positive)
    far = _mining.hinge(outer - distances, negative)

    def total(values: jax.Array) -> jax.Array:
        return _batch.sum_devices(values.astype(x.dtype).sum(), axis_name)

    if variant == "paper":
        number = total(positive | negative)
        return total(near * near + far * far) / 2 / jnp.maximum(number, 1)
    parts = (total(part) / jnp.maximum(total(part > 0), 1) for part in (near, far))
    return sum(parts, start=jnp.zeros((), x.dtype))


def n_pair(
    embeddings: ArrayLike,
    labels: ArrayLike,
    *,
    normalize: bool = False,
    where: ArrayLike | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    """Computes the multi-class N-pair loss: finds the positive of an anchor among those of others.

    The first two images of each class in the batch are its anchor a and its positive p. The loss is
    the mean over the classes of -log(exp(a . p) / sum_c exp(a . p_c)), where p_c are the positives
    of all classes. Classes with one image in the batch are left out; further images of a class have
    no loss and no gradient.

    Args:
        embeddings: [N, D]. The paper does not normalize them, and adds their mean squared length
            times a small weight.
        labels: integers [N].
        normalize: L2-normalize the embeddings first, as pytorch-metric-learning does.
        where: boolean [N]; rows with False are left out.
        axis_name: name of the mapped axis that splits the batch over devices. Every device returns
            the value of the global batch; average the gradient with `pmean` over this axis.

    Returns:
        A scalar, 0 for fewer than two classes with two images.

    Raises:
        ValueError: If the shapes do not match, the labels are not integers, or the mask is not
            boolean.

    References:
        Sohn, "Improved deep metric learning with multi-class N-pair loss objective", NeurIPS 2016,
        eq. 7; pytorch-metric-learning 2.9.0, `NPairsLoss`.

    Example:
        >>> import numpy as np
        >>> from kd_jax import losses
        >>> embeddings, labels = np.eye(2)[[0, 0, 1, 1]], np.array([0, 0, 1, 1])
        >>> round(float(losses.n_pair(embeddings, labels)), 4)  # log(1 + exp(-1))
        0.3133
    """
    x, labels, mask = _mining.as_embeddings(embeddings, labels, where, normalize)
    same, _ = _mining.class_pairs(labels, mask, axis_name)
    rows = _mining.row_numbers(x, axis_name)
    before = _batch.gather_rows(rows, axis_name)[None] < rows[:, None]
    place = jnp.where(mask, (same & before).sum(1), -1)  # within the class
    second = _batch.gather_rows(place, axis_name)[None] == 1
    target = same & second
    anchor = (place == 0) & target.any(1)
    # A common shift of the positives changes no difference of two scores of an anchor.
    shifted = _batch.centered(x, mask, _batch.masked_mean(x, mask, axis_name))
    columns = _batch.gather_rows(shifted, axis_name)
    scores = jnp.matmul(x, columns.T, precision=_numerics.HIGHEST)
    # Other rows have one score, so that their loss is finite and their gradient 0.
    among = (anchor[:, None] & second) | (~anchor[:, None] & _batch.same_image(mask, axis_name))
    lowest = jnp.where(among, scores, -jnp.inf)
    values = jax.nn.logsumexp(lowest, 1) - jnp.where(target, scores, 0).sum(1)
    return _batch.reduce_images(values, anchor, axis_name)


def multi_similarity(
    embeddings: ArrayLike,
    labels: ArrayLike,
    *,
    alpha: ArrayLike = 2.0,
    beta: ArrayLike = 50.0,
    base: ArrayLike = 0.5,
    epsilon: ArrayLike | None = 0.1,
    where: ArrayLike | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    """Computes the multi-similarity loss, of cosine similarities s.

    The loss is the mean over the images i of
    log(1 + sum_p exp(-alpha (s_ip - base))) / alpha + log(1 + sum_n exp(beta (s_in - base))) / beta
    over the selected positives p and negatives n. A negative is selected if s_in > min_p s_ip -
    epsilon, a positive if s_ip < max_n s_in + epsilon. An image without positives or without
    negatives selects none.

    Args:
        embeddings: [N, D], of any length.
        labels: integers [N].
        alpha: a scalar; may be traced, like the next three.
        beta: a scalar.
        base: lambda of the paper, a scalar.
        epsilon: a scalar; None selects all pairs.
        where: boolean [N]; rows with False are left out.
        axis_name: name of the mapped axis that splits the batch over devices. Every device returns
            the value of the global batch; average the gradient with `pmean` over this axis.

    Returns:
        A scalar.

    Raises:
        ValueError: If the shapes do not match, the labels are not integers, or the mask is not
            boolean.

    References:
        Wang et al., `Multi-similarity loss with general pair weighting for deep metric learning
        <https://arxiv.org/abs/1904.06627>`_, CVPR 2019, eq. 11 to 15; pytorch-metric-learning
        2.9.0, `MultiSimilarityLoss` and `MultiSimilarityMiner`.

    Example:
        >>> import numpy as np
        >>> from kd_jax import losses
        >>> embeddings, labels = np.ones((2, 1)), np.array([0, 0])
        >>> loss = losses.multi_similarity(embeddings, labels, epsilon=None)
        >>> round(float(loss), 4)  # log(1 + exp(-2 (1 - 0.5))) / 2
        0.1566
    """
    x, labels, mask = _mining.as_embeddings(embeddings, labels, where)
    options = {"alpha": alpha, "beta": beta, "base": base}
    alpha, beta, base = (_numerics.as_scalar(v, x, k) for k, v in options.items())
    positive, negative = _mining.class_pairs(labels, mask, axis_name)
    cosines = _batch.gram(_numerics.unit_rows(x), axis_name)
    if epsilon is not None:
        epsilon = _numerics.as_scalar(epsilon, x, "epsilon")
        fixed = jax.lax.stop_gradient(cosines)
        least = jnp.min(jnp.where(positive, fixed, jnp.inf), 1, keepdims=True)
        most = jnp.max(jnp.where(negative, fixed, -jnp.inf), 1, keepdims=True)
        # NaN is in no comparison, so it stays selected.
        positive &= ~(fixed - epsilon >= most)
        negative &= ~(fixed + epsilon <= least)
    pull = _soft_count(-alpha * (cosines - base), positive) / alpha
    push = _soft_count(beta * (cosines - base), negative) / beta
    return _batch.reduce_images(pull + push, mask, axis_name)


def _soft_count(exponents: jax.Array, mask: jax.Array) -> jax.Array:
    """Computes log(1 + sum of exp) over the entries of each row in the mask."""
    masked = jnp.where(mask, exponents, -jnp.inf)
    return jax.nn.logsumexp(jnp.pad(masked, ((0, 0), (0, 1))), 1)
