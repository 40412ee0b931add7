"""Code that all evaluations of embeddings share: checks, unit rows, and the ranks of mates.

Everything is float64. Its rounding error, about 1e-16, is far below the resolution of float32
embeddings. A tie between two images that the network cannot distinguish therefore remains a tie,
in whatever order a matrix product adds. Every float32 row except zero can be normalized without
overflow.
"""

import contextlib
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import ArrayLike

from kd_jax.core.errors import UsageError

TIE = 1e-12
"""Scores that differ by at most this are equal: above the rounding error, below float32 steps."""

SAME_DIRECTION = 1e-6
"""Unit rows that differ by at most this in every column are equal: above float32 rounding."""

SCORES_AT_ONCE = 2**24
"""Default number of scores in memory at once: 128 MiB."""


@contextlib.contextmanager
def usage_errors(evaluated: str) -> Iterator[None]:
    """Turns a `ValueError` of an evaluation into a `UsageError` that names what was evaluated."""
    try:
        yield
    except UsageError:
        raise
    except ValueError as error:
        raise UsageError(f"{evaluated} cannot be evaluated: {error}.") from error


def as_embeddings(array: ArrayLike, name: str) -> np.ndarray:
    """Checks embeddings that are to be compared by their directions.

    Args:
        array: embeddings `[N, D]`.
        name: name of the array in errors.

    Returns:
        The embeddings, float64 `[N, D]`, not normalized.

    Raises:
        ValueError: if the shape is another one; if a value is NaN or infinite; if a row has no
            direction; if all rows have one direction, because then all scores are equal and
            measure nothing.
    """
    rows = np.asarray(array, np.float64)
    if rows.ndim != 2 or not rows.size:
        raise ValueError(f"{name} must be [N, D], one row per image, not {list(rows.shape)}")
    broken = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if broken.size:
        raise ValueError(
            f"{name} has NaN or infinity in {broken.size} of {len(rows)} rows, first in row"
            f" {broken[0]}: the network has diverged, evaluate an earlier checkpoint"
        )
    unit = unit_rows(rows, name)
    if len(rows) > 1 and np.ptp(unit, axis=0).max() <= SAME_DIRECTION:
        raise ValueError(
            f"{name} has one direction for all {len(rows)} images: the network has collapsed,"
            " train it again"
        )
    return rows


def unit_rows(rows: np.ndarray, name: str) -> np.ndarray:
    """Divides each row by its L2 norm.

    Args:
        rows: float64 `[N, D]`.
        name: name of the array in errors.

    Returns:
        Rows of norm 1, `[N, D]`.

    Raises:
        ValueError: if a norm is zero or exceeds float64.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # such norms are an error below
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
    broken = np.flatnonzero(~((norms > 0) & np.isfinite(norms)))
    if broken.size:
        raise ValueError(
            f"{name} has {broken.size} of {len(rows)} rows that cannot be normalized, first row"
            f" {broken[0]} of norm {norms[broken[0], 0]:g}: leave these images out or repair the"
            " network"
        )
    return rows / norms


def as_labels(labels: ArrayLike, number: int, name: str) -> np.ndarray:
    """Checks labels.

    Args:
        labels: one integer or string per embedding.
        number: number of embeddings.
        name: name of the array in errors.

    Returns:
        The labels, `[number]`.

    Raises:
        ValueError: if the shape or the type is another one.
    """
    labels = np.asarray(labels)
    if labels.shape != (number,) or labels.dtype.kind not in "iuSU":
        raise ValueError(
            f"{name} must be [{number}], one integer or string per embedding, not"
            f" {labels.dtype} {list(labels.shape)}"
        )
    return labels


def as_ranks(ranks: Iterable[int], largest: int, name: str) -> tuple[int, ...]:
    """Checks ranks.

    Args:
        ranks: one or more integers, each from 1 to `largest`.
        largest: number of images to choose from.
        name: name of the ranks in errors.

    Raises:
        ValueError: if there are none, or one is not an integer or is out of range.
    """
    ranks = tuple(ranks)
    integers = all(isinstance(rank, int | np.integer) for rank in ranks)
    if not ranks or not integers or not all(1 <= rank <= largest for rank in ranks):
        raise ValueError(
            f"{name} must be integers from 1 to {largest}, the number of images to choose from,"
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
    by_identity: bool = False,
    block_size: int,
) -> np.ndarray:
    """Computes the rank of the first mate of each query, an image with the label of the query.

    The rank is pessimistic: an image of another label with an equal score is ranked before the
    mate. If only greater scores counted, a network that maps all images to one point would reach
    rank 1 for every query.

    Args:
        queries: unit rows `[Q, D]`.
        query_labels: labels `[Q]`; every query has a mate in the gallery.
        gallery: unit rows `[G, D]`.
        gallery_labels: labels `[G]`.
        own: row of the gallery that is the query itself and is left out, int `[Q]`; not used with
            `by_identity`.
        by_identity: rank the labels of the gallery, each by its nearest image, in place of the
            images.
        block_size: number of scores in memory at once; at least those of one query are.

    Returns:
        Ranks, int64 `[Q]`; 1 if the nearest image is a mate.

    Raises:
        ValueError: if `block_size` is not positive.
    """
    if block_size < 1:
        raise ValueError(f"block_size must be 1 or more scores at once, not {block_size}")
    step = max(1, block_size // len(gallery))
    if by_identity:
        order = np.argsort(gallery_labels, kind="stable")
        gallery = gallery[order]
        gallery_labels, starts = np.unique(gallery_labels[order], return_index=True)
    ranks = np.empty(len(queries), np.int64)
    for start in range(0, len(queries), step):
        block = slice(start, start + step)
        scores = queries[block] @ gallery.T
        if by_identity:
            scores = np.maximum.reduceat(scores, starts, axis=1)
        mate = query_labels[block, np.newaxis] == gallery_labels
        other = ~mate
        if own is not None:
            mate[np.arange(len(mate)), own[block]] = False
        nearest = scores.max(axis=1, where=mate, initial=-np.inf, keepdims=True)
        ranks[block] = 1 + np.sum((scores >= nearest - TIE) & other, axis=1)
    return ranks
