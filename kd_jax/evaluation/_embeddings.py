"""What all evaluations of embeddings share: checked arrays, unit rows and the ranks of mates.

All of it in float64. Its rounding, some 1e-16, lies far below the steps of float32 embeddings, so
that a tie between images that a network cannot tell apart stays a tie, whatever order a matrix
product adds in; and every float32 row but zero can be normalised without overflow.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike

TIE = 1e-12  # scores no further apart are equal: more than rounding, less than any float32 step
SAME = 1e-6  # unit rows no further apart in any column are one: more than float32 rounding
SCORES_AT_ONCE = 2**24  # 128 MiB


def as_embeddings(array: ArrayLike, name: str) -> np.ndarray:
    """Embeddings that can be told apart by their directions.

    Args:
        array: `[N, D]`.
        name: what an error calls them.

    Returns:
        `[N, D]` float64, not normalised.

    Raises:
        ValueError: another shape; NaN or infinity; a row without a direction; all rows of one
            direction, where every score would be a tie and nothing is measured.
    """
    rows = np.asarray(array, np.float64)
    if rows.ndim != 2 or not rows.size:
        raise ValueError(f"{name} must be [N, D], one row an image, not {list(rows.shape)}")
    broken = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if broken.size:
        raise ValueError(
            f"{name} has NaN or infinity in {broken.size} of {len(rows)} rows, row {broken[0]}"
            " first: the network has diverged, evaluate an earlier checkpoint"
        )
    unit = unit_rows(rows, name)
    if len(rows) > 1 and np.ptp(unit, axis=0).max() <= SAME:
        raise ValueError(
            f"{name} is the same for all {len(rows)} images, up to its length: the network has"
            " collapsed, train it anew"
        )
    return rows


def unit_rows(rows: np.ndarray, name: str) -> np.ndarray:
    """Rows `[N, D]` divided by their L2 norms.

    Raises:
        ValueError: a norm is zero or beyond float64.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # such norms are an error below
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
    broken = np.flatnonzero(~((norms > 0) & np.isfinite(norms)))
    if broken.size:
        raise ValueError(
            f"{name} has {broken.size} of {len(rows)} rows that cannot be normalised, row"
            f" {broken[0]} of norm {norms[broken[0], 0]:g} first: leave these images out or repair"
            " the network"
        )
    return rows / norms


def as_labels(labels: ArrayLike, number: int, name: str) -> np.ndarray:
    """Labels `[number]`, whole numbers or words.

    Raises:
        ValueError: another shape or type.
    """
    labels = np.asarray(labels)
    if labels.shape != (number,) or labels.dtype.kind not in "iuSU":
        raise ValueError(
            f"{name} must be [{number}], a whole number or a word for each embedding, not"
            f" {labels.dtype} {list(labels.shape)}"
        )
    return labels


def as_ranks(ranks: Iterable[int], most: int, name: str) -> tuple[int, ...]:
    """Ranks, each from 1 to `most`.

    Raises:
        ValueError: none, not whole, or out of range.
    """
    ranks = tuple(ranks)
    whole = all(isinstance(rank, int | np.integer) for rank in ranks)
    if not ranks or not whole or not all(1 <= rank <= most for rank in ranks):
        raise ValueError(
            f"{name} must be whole numbers from 1 to {most}, the number of images to choose from,"
            f" not {ranks}"
        )
    return tuple(int(rank) for rank in ranks)


def mate_ranks(
    queries: np.ndarray,
    query_labels: np.ndarray,
    gallery: np.ndarray,
    gallery_labels: np.ndarray,
    *,
    own: np.ndarray | None = None,
    block_size: int,
) -> np.ndarray:
    """At which place each query finds an image of its own label first.

    Pessimistic: an image of another label with an equal score stands before the mate. With `>`
    instead, a network that maps every image to one point would find everything.

    Args:
        queries: unit rows `[Q, D]`.
        query_labels: `[Q]`; every query has a mate in the gallery.
        gallery: unit rows `[G, D]`.
        gallery_labels: `[G]`.
        own: `[Q]`, each query's own row of the gallery, which it does not find.
        block_size: scores in memory at once, at least one query's.

    Returns:
        `[Q]` int64, 1 for a mate in the first place.

    Raises:
        ValueError: `block_size` is not positive.
    """
    if block_size < 1:
        raise ValueError(f"block_size must be 1 or more scores at once, not {block_size}")
    step = max(1, block_size // len(gallery))
    ranks = np.empty(len(queries), np.int64)
    for start in range(0, len(queries), step):
        block = slice(start, start + step)
        scores = queries[block] @ gallery.T
        mate = query_labels[block, np.newaxis] == gallery_labels
        other = ~mate
        if own is not None:
            mate[np.arange(len(mate)), own[block]] = False
        nearest = scores.max(axis=1, where=mate, initial=-np.inf, keepdims=True)
        ranks[block] = 1 + np.sum((scores >= nearest - TIE) & other, axis=1)
    return ranks
