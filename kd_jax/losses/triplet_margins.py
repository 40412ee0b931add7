"""Metric learning with triplets: an anchor, a positive of its class, a negative of another class.

All selections need O(N^2 log N) operations and O(N^2) memory after the distances, which need
O(N^2 D) operations. No triplet is stored.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from kd_jax.losses import _batch, _mining, _numerics

MINING = _mining.MINING
REDUCTIONS = ("mean", "nonzero")


def triplet_margin(
    embeddings: ArrayLike,
    labels: ArrayLike,
    *,
    margin: ArrayLike = 0.2,
    mining: str = "semihard",
    reduction: str = "mean",
    key: jax.Array | None = None,
    normalize: bool = False,
    where: ArrayLike | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    """Computes the triplet loss, max(0, d_ap - d_an + margin), with the Euclidean distance d.

    Ties have slope 0. Selections of triplets:

    - "all": every triplet of anchor, positive and negative.
    - "hard": every pair of anchor and positive, with the anchor's nearest negative.
    - "semihard": every pair of anchor and positive, with the nearest negative that is further away
      than the positive, or else with the furthest negative.
    - "distance": every pair of anchor and positive, with a negative that is drawn with probability
      ~ 1 / q(d), where q is the density of distances between random points on the sphere. Distances
      below 0.5 count as 0.5, and negatives from 1.4 on are drawn only if there is no nearer one.
      The draws use the L2-normalized embeddings. As in the code of RKD, weights are relative to
      that of the nearest image: for large D and a near positive, the weights of all negatives are
      too small for float32, and all negatives have the same probability.
    - "batch_hard": each anchor with its furthest positive and its nearest negative.

    Args:
        embeddings: [N, D].
        labels: integers [N].
        margin: a scalar; may be traced.
        mining: selection of the triplets.
        reduction: "mean" over the selected triplets, or over those with a positive loss, "nonzero".
        key: a key of `jax.random` for "distance", the same on all devices.
        normalize: L2-normalize the embeddings first, as all these papers do.
        where: boolean [N]; rows with False are left out.
        axis_name: name of the mapped axis that splits the batch over devices. Every device returns
            the value of the global batch; average the gradient with `pmean` over this axis.

    Returns:
        A scalar, 0 if there is no triplet.

    Raises:
        ValueError: If the shapes do not match, the labels are not integers, the mask is not
            boolean, an option is unknown, or the key is missing.

    References:
        Schroff et al., `FaceNet <https://arxiv.org/abs/1503.03832>`_, CVPR 2015, eq. 2 (with
        squared distances) and 4; Hermans et al., `In defense of the triplet loss
        <https://arxiv.org/abs/1703.07737>`_, 2017, eq. 5 ("batch_hard"); Wu et al., `Sampling
        matters in deep embedding learning <https://arxiv.org/abs/1706.07567>`_, ICCV 2017, eq. 3
        and 4 ("distance"); lenscloth/RKD at 0a6c3c0, `metric/pairsampler.py`.

    Example:
        >>> import numpy as np
        >>> from kd_jax import losses
        >>> embeddings, labels = np.array([[0.0], [1.0], [1.5]]), np.array([0, 0, 1])
        >>> loss = losses.triplet_margin(embeddings, labels, mining="all")  # 0 and 1 - 0.5 + 0.2
        >>> round(float(loss), 4)
        0.35
    """
    _numerics.one_of("mining", mining, MINING)
    _numerics.one_of("reduction", reduction, REDUCTIONS)
    x, labels, mask = _mining.as_embeddings(embeddings, labels, where, normalize)
    margin = _numerics.as_scalar(margin, x, "margin")
    pairs = _mining.measured_pairs(x, labels, mask, axis_name)
    if mining == "all":
        total, above = _mining.hinge_sum(pairs, margin)
        per_anchor = pairs.positive.sum(1) * pairs.negative.sum(1)
        count = above if reduction == "nonzero" else per_anchor.astype(x.dtype).sum()
    else:
        near, far, chosen = _mining.select(pairs, x, mask, mining, key, axis_name)
        hinges = _mining.hinge(near - far + margin, chosen)
        total = hinges.sum()
        count = ((hinges > 0) if reduction == "nonzero" else chosen).sum().astype(x.dtype)
    total, count = (_batch.sum_devices(part, axis_name) for part in (total, count))
    return total / jnp.maximum(count, 1)


def distance_margin(
    embeddings: ArrayLike,
    labels: ArrayLike,
    boundary: ArrayLike = 1.2,
    *,
    margin: ArrayLike = 0.2,
    boundary_weight: ArrayLike = 0.0,
    mining: str = "distance",
    key: jax.Array | None = None,
    normalize: bool = False,
    where: ArrayLike | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    """Computes the margin loss: positives are nearer than a boundary, negatives further away.

    Each selected triplet has max(0, margin + d_ap - b) + max(0, margin + b - d_an), where b is the
    boundary of the anchor's class. The sum is divided by the number of the terms that are positive.
    The gradient flows to the boundary, so it may be trained.

    Args:
        embeddings: [N, D].
        labels: integers [N].
        boundary: beta of the paper: a scalar, or one number per class [C].
        margin: alpha of the paper, a scalar; may be traced.
        boundary_weight: nu of the paper, the weight of the boundary in the loss: as beta itself, or
            for [C] as the sum of the boundaries of the triplets' anchors, divided as above. A
            scalar; may be traced.
        mining: selection of the triplets, see `triplet_margin`.
        key: a key of `jax.random` for "distance", the same on all devices.
        normalize: L2-normalize the embeddings first, as all these papers do.
        where: boolean [N]; rows with False are left out.
        axis_name: name of the mapped axis that splits the batch over devices. Every device returns
            the value of the global batch; average the gradient with `pmean` over this axis.

    Returns:
        A scalar, the weighted boundary alone if no term is positive. It is NaN if there are
        boundaries per class and a label is not in [0, C).

    Raises:
        ValueError: If the shapes do not match, the labels are not integers, the mask is not
            boolean, the mining is unknown, or the key is missing.

    References:
        Wu et al., `Sampling matters in deep embedding learning
        <https://arxiv.org/abs/1706.07567>`_, ICCV 2017, eq. 5 to 7; pytorch-metric-learning 2.9.0,
        `MarginLoss`.

    Example:
        >>> import numpy as np
        >>> from kd_jax import losses
        >>> embeddings, labels = np.array([[0.0], [1.1], [2.2]]), np.array([0, 0, 1])
        >>> loss = losses.distance_margin(embeddings, labels, mining="all")  # 0.1, 0.1 and 0.3
        >>> round(float(loss), 4)
        0.1667
    """
    _numerics.one_of("mining", mining, MINING)
    x, labels, mask = _mining.as_embeddings(embeddings, labels, where, normalize)
    margin = _numerics.as_scalar(margin, x, "margin")
    nu = _numerics.as_scalar(boundary_weight, x, "boundary_weight")
    bounds = _boundaries(boundary, labels, mask, x)
    pairs = _mining.measured_pairs(x, labels, mask, axis_name)
    if mining == "all":
        near = far = pairs.distances
        inside, outside = pairs.positive, pairs.negative
        # A pair is in one triplet per image of the other kind.
        far_repeats, near_repeats = (m.sum(1, keepdims=True) for m in (inside, outside))
        triplets = near_repeats * far_repeats
    else:
        near, far, inside = _mining.select(pairs, x, mask, mining, key, axis_name)
        outside, triplets = inside, inside.sum(1, keepdims=True)
        near_repeats = far_repeats = jnp.ones_like(triplets)
    near_loss = _mining.hinge(near - bounds + margin, inside)
    far_loss = _mining.hinge(bounds - far + margin, outside)

    def over_triplets(near: jax.Array, far: jax.Array) -> jax.Array:
        near, far = (value.astype(x.dtype) for value in (near, far))
        total = (near_repeats.astype(x.dtype) * near).sum()
        total += (far_repeats.astype(x.dtype) * far).sum()
        return _batch.sum_devices(total, axis_name)

    total = over_triplets(near_loss, far_loss)
    count = jnp.maximum(over_triplets(near_loss > 0, far_loss > 0), 1)
    if jnp.ndim(boundary) == 0:
        return total / count + nu * bounds[0, 0]
    per_class = _batch.sum_devices((triplets.astype(x.dtype) * bounds).sum(), axis_name)
    return (total + nu * per_class) / count


def _boundaries(boundary: ArrayLike, labels: jax.Array, mask: jax.Array, x: jax.Array) -> jax.Array:
    """Returns the boundary of each anchor, [N, 1] or [1, 1]."""
    boundary = jnp.asarray(boundary, x.dtype)
    _numerics.expect(boundary.ndim < 2, "boundary must be a scalar or [C]", boundary=boundary)
    if boundary.ndim == 0:
        return boundary[None, None]
    labels = jnp.where(labels < 0, boundary.shape[0], labels)  # a negative one would wrap
    own = jnp.take(boundary, labels, mode="fill", fill_value=jnp.nan)
    return jnp.where(mask, own, 0)[:, None]
