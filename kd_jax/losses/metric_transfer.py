"""Distillation of embeddings for retrieval: the order and the distances of a batch's images.

DarkRank: Chen et al., `DarkRank: accelerating deep metric learning via cross sample similarities
transfer <https://arxiv.org/abs/1707.01220>`_, AAAI 2018.

MKD: Yu et al., `Learning metrics from teachers: compact networks for image embedding
<https://arxiv.org/abs/1904.03624>`_, CVPR 2019. Its absolute teacher, the mean distance between the
embeddings of student and teacher, is `normalized_feature_l2`.

Student and teacher may differ in width. Both losses need O(N^2 D) operations and O(N^2) memory.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from kd_jax.losses import _batch, _mining, _numerics


def neighbor_ranking(
    student: ArrayLike,
    teacher: ArrayLike,
    *,
    alpha: ArrayLike = 3.0,
    beta: float = 3.0,
    neighbors: int = 4,
    where: ArrayLike | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    """Computes DarkRank's hard transfer: the student's likelihood of the teacher's ranking.

    The teacher ranks the nearest images of image i, pi_1 to pi_k, by their Euclidean distances d.
    With the student's scores S_j = -alpha d_ij^beta, the loss is the mean over the images of
    -sum_m log(exp(S_pi_m) / sum_(l >= m) exp(S_pi_l)). Ties of the teacher are in the order of the
    batch. No gradient flows to the teacher.

    Args:
        student: embeddings [N, D].
        teacher: embeddings [N, E].
        alpha: a scalar; may be traced. The class of lenscloth/RKD has 3, its script 2.
        beta: a number of at least 1.
        neighbors: k, the number of images that are ranked. A smaller batch ranks all its images.
        where: boolean [N]; rows with False are left out.
        axis_name: name of the mapped axis that splits the batch over devices. Every device returns
            the value of the global batch; average the gradient with `pmean` over this axis.

    Returns:
        A scalar, 0 for fewer than three images.

    Raises:
        ValueError: If the shapes do not match, the mask is not boolean, neighbors is below 1 or
            beta is below 1.

    References:
        DarkRank, eq. 1 and the loss of the hard transfer; lenscloth/RKD at 0a6c3c0,
        `metric/loss.py`, `HardDarkRank`.

    Example:
        >>> import numpy as np
        >>> from kd_jax import losses
        >>> student, teacher = np.zeros((3, 1)), np.array([[0.0], [1.0], [3.0]])
        >>> loss = losses.neighbor_ranking(student, teacher)  # two orders are equally likely
        >>> round(float(loss), 4)
        0.6931
    """
    if neighbors < 1 or not beta >= 1:
        raise ValueError(f"neighbors and beta must be 1 or more; got {neighbors} and {beta}")
    student, teacher = _numerics.as_rows(student, teacher, same_width=False)
    mask = _numerics.as_mask(where, student)
    alpha = _numerics.as_scalar(alpha, student, "alpha")
    others = _batch.distinct_pairs(mask, axis_name)
    ours, theirs = (
        _mining.squares(_numerics.keep_rows(x, mask), mask, axis_name) for x in (student, teacher)
    )
    theirs = jnp.where(others, jax.lax.stop_gradient(theirs), jnp.inf)
    # `top_k` needs at least `neighbors` columns, which a small batch does not have.
    padded = jnp.pad(theirs, ((0, 0), (0, neighbors)), constant_values=jnp.inf)
    _, order = jax.lax.top_k(-padded, neighbors)
    exists = jnp.arange(neighbors)[None] < others.sum(1, keepdims=True)
    order = jnp.minimum(order, ours.shape[1] - 1)
    ranked = _power(jnp.take_along_axis(ours, order, 1), beta / 2)
    scores = jnp.where(exists, -alpha * ranked, -jnp.inf)
    remaining = jax.lax.cumlogsumexp(scores, 1, reverse=True)
    values = jnp.where(exists, remaining - scores, 0).sum(1)
    # A ranking hides NaN of the teacher. This keeps NaN in the value and in the gradient.
    values *= 1 + 0 * jnp.where(others, theirs, 0).sum(1)
    return _batch.reduce_images(values, mask, axis_name)


def distance_matrix_gap(
    student: ArrayLike,
    teacher: ArrayLike,
    *,
    normalize: bool = True,
    where: ArrayLike | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    """Computes MKD's relative teacher: the Frobenius norm of the difference of distance matrices.

    The loss is sqrt(sum_ij (d_ij - e_ij)^2) over all N^2 pairs, where d are the Euclidean distances
    of the student and e those of the teacher. Unlike `pair_relation`, it does not divide by the
    mean distance, and it grows with the number of images. Equal matrices have loss 0 with
    gradient 0.

    Args:
        student: embeddings [N, D].
        teacher: embeddings [N, E].
        normalize: L2-normalize both first. The networks of the authors end with this step.
        where: boolean [N]; rows with False are left out.
        axis_name: name of the mapped axis that splits the batch over devices. Every device returns
            the value of the global batch; average the gradient with `pmean` over this axis.

    Returns:
        A scalar. The authors' script gives it the weight 0.3 (CUB), 0.1 (Cars) or 1 (SOP) with
        N = 32, and the absolute teacher 1, 1.5 or 2.

    Raises:
        ValueError: If the shapes do not match, or the mask is not boolean.

    References:
        MKD; yulu0724/EmbeddingDistillation at bde5ba3, `train_distillation.py`. The code takes one
        norm of the whole matrix, `torch.norm(dis - dis_T, p=2)`.

    Example:
        >>> import numpy as np
        >>> from kd_jax import losses
        >>> student, teacher = np.array([[0.0], [3.0]]), np.array([[0.0], [1.0]])
        >>> round(float(losses.distance_matrix_gap(student, teacher, normalize=False)), 4)  # sqrt 8
        2.8284
    """
    student, teacher = _numerics.as_rows(student, teacher, same_width=False)
    mask = _numerics.as_mask(where, student)
    distinct = _batch.distinct_pairs(mask, axis_name)

    def distances(x: jax.Array) -> jax.Array:
        x = _numerics.keep_rows(x, mask)
        x = _numerics.unit_rows(x) if normalize else x
        return _numerics.safe_root(jnp.where(distinct, _mining.squares(x, mask, axis_name), 0))

    gap = distances(student) - distances(teacher)
    return _numerics.safe_root(_batch.sum_devices(jnp.square(gap).sum(), axis_name))


def _power(x: jax.Array, exponent: float) -> jax.Array:
    """Computes x^exponent for x >= 0, with gradient 0 at 0."""
    zero = x <= 0
    return jnp.where(zero, 0, jnp.where(zero, 1, x) ** exponent)
