"""Retrieval: whether the images nearest to an image show the same class."""

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
    """Recall@K of metric learning: each image queries all others by cosine similarity.

    A query succeeds at K if one of its K nearest images shows its class. It does not find itself,
    which is told by its row and not by its score: a copy of the image is found. Pessimistic: an
    image of another class with an equal score, to 1e-12, stands before those of the query's.

    Args:
        embeddings: `[N, D]`, of any length.
        labels: classes `[N]`, whole numbers or words. An image alone in its class cannot succeed:
            it queries nothing, but others find it.
        ks: each from 1 to N - 1.
        block_size: scores in memory at once, at least one query's; changes no result.

    Returns:
        `recall_at_<K>`, the share 0 to 1 of the queries that succeed, for each K; `queries`, their
        number; `singletons`, the number of images alone in their class.

    Raises:
        ValueError: the shapes do not fit; embeddings with NaN, infinity, a row of zeros or one
            direction for all images; labels of one class, or no class of two images.

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
            " succeed or none could: pass several classes, one or more of them of several images"
        )
    ks = _embeddings.as_ranks(ks, len(rows) - 1, "ks")
    unit = _embeddings.unit_rows(rows, "embeddings")
    found = _embeddings.mate_ranks(
        unit[queries], classes[queries], unit, classes, own=queries, block_size=block_size
    )
    return {
        **{f"recall_at_{k}": float(np.mean(found <= k)) for k in ks},
        "queries": len(queries),
        "singletons": len(rows) - len(queries),
    }
