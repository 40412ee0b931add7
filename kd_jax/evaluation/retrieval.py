"""Retrieval: the fraction of images whose nearest images have the same class."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike

from kd_jax.evaluation import _embeddings


def recall_at_k(
    embeddings: ArrayLike,
    labels: ArrayLike,
    *,
    ks: Iterable[int] = (1, 2, 4, 8),
    block_size: int = _embeddings.SCORES_AT_ONCE,
) -> dict[str, float | int]:
    """Computes Recall@K of metric learning: each image queries all others by cosine similarity.

    A query succeeds at K if one of its K nearest images has its class. The query itself is left
    out by its row and not by its score, so that a copy of the image counts. The result is
    pessimistic: of images whose scores differ by at most 1e-12, those of other classes are ranked
    first.

    Args:
        embeddings: embeddings `[N, D]` of any norm.
        labels: classes `[N]`, integers or strings. An image that is alone in its class cannot
            succeed: it is no query, but other queries can find it.
        ks: values of K, each from 1 to N - 1.
        block_size: number of scores in memory at once; it does not change the result.

    Returns:
        `recall_at_<K>` for each K, the fraction of the queries that succeed, 0 to 1; `queries`, the
        number of queries; `singletons`, the number of images that are alone in their class.

    Raises:
        ValueError: if the shapes do not fit; if embeddings have NaN, infinity, a row of zeros or
            one direction for all images; if there is only one class, or no class of two images.

    References:
        Oh Song et al., `Deep metric learning via lifted structured feature embedding
        <https://arxiv.org/abs/1511.06452>`_, CVPR 2016.
    """
    rows = _embeddings.as_embeddings(embeddings, "embeddings")
    labels = _embeddings.as_labels(labels, len(rows), "labels")
    _, classes, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    queries = np.flatnonzero(sizes[classes] > 1)
    if len(sizes) < 2 or not queries.size:
        raise ValueError(
            f"labels has {len(sizes)} classes for {len(rows)} images, so that each query would"
            " succeed or none could: pass two or more classes, at least one of them with several"
            " images"
        )
    ks = _embeddings.as_ranks(ks, len(rows) - 1, "ks")
    unit = _embeddings.unit_rows(rows, "embeddings")
    ranks = _embeddings.mate_ranks(
        unit[queries], classes[queries], unit, classes, own=queries, block_size=block_size
    )
    return {
        **{f"recall_at_{k}": float(np.mean(ranks <= k)) for k in ks},
        "queries": len(queries),
        "singletons": len(rows) - len(queries),
    }
