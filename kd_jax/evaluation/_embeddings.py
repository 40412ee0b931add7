"""Code that all evaluations of embeddings share: checks, unit rows, and ranks of identities.

Everything is float64. Its rounding error, about 1e-16, is far below the resolution of float32
embeddings. A tie between two images that the network cannot distinguish therefore remains a tie,
in whatever order a matrix product adds. Every float32 row except zero can be normalized without
overflow.
"""

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import ArrayLike

from kd_jax.core.errors import UsageError

TIE = 1e-12
"""Scores that differ by at most this are equal: above the rounding error, below float32 steps."""

SAME_DIRECTION = 1e-6
"""Unit rows that differ by at most this in every column are equal: above float32 rounding."""

SCORES_AT_ONCE = 2**24
"""Number of float64 scores in memory at once: 128 MiB."""
_BLOCK = 2**13
"""Number of embeddings that are checked at once."""


@contextlib.contextmanager
def usage_errors(evaluated: str) -> Iterator[None]:
    """Turns a `ValueError` of an evaluation into a `UsageError` that names what was evaluated."""
    try:
        yield
    except UsageError:
        raise
    except ValueError as error:
        raise UsageError(f"{evaluated} cannot be evaluated: {error}.") from error


@dataclasses.dataclass(frozen=True)
class Directions:
    """Embeddings that are compared by their directions. They are normalized when they are used.

    Attributes:
        rows: the embeddings as they are stored, `[N, D]`.
        norms: L2 norm of each row, float64 `[N]`.
    """

    rows: np.ndarray
    norms: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def width(self) -> int:
        """Number of columns D."""
        return int(self.rows.shape[1])

    def unit(self, index: slice | np.ndarray = slice(None)) -> np.ndarray:
        """Returns chosen rows divided by their norms, float64 `[K, D]`."""
        return self.rows[index].astype(np.float64) / self.norms[index, np.newaxis]

    def keep(self, index: np.ndarray) -> "Directions":
        """Returns chosen rows; all of them in their order are not copied."""
        if len(index) == len(self.rows):
            return self
        return Directions(self.rows[index], self.norms[index])


def as_directions(array: ArrayLike, name: str, *, allow_equal: bool = False) -> Directions:
    """Checks embeddings that are to be compared by their directions, block by block.

    Args:
        array: embeddings `[N, D]`. Those in float32 or float64 are not copied.
        name: name of the array in errors.
        allow_equal: accept embeddings that have one direction.

    Returns:
        The embeddings and their norms.

    Raises:
        ValueError: if the shape is another one; if a value is NaN or infinite; if a row has no
            direction; if all rows have one direction, because then all scores are equal and
            measure nothing.
    """
    rows = np.asarray(array)
    if rows.dtype not in (np.float32, np.float64):
        rows = np.asarray(rows, np.float64)
    if rows.ndim != 2 or not rows.size:
        raise ValueError(f"{name} must be [N, D], one row per image, not {list(rows.shape)}")
    blocks = [slice(start, start + _BLOCK) for start in range(0, len(rows), _BLOCK)]
    broken = np.flatnonzero(~np.concatenate([np.isfinite(rows[b]).all(axis=1) for b in blocks]))
    if broken.size:
        raise ValueError(
            f"{name} has NaN or infinity in {broken.size} of {len(rows)} rows, first in row"
            f" {broken[0]}: the network has diverged, evaluate an earlier checkpoint"
        )
    found = Directions(rows, _norms(rows, blocks, name))
    if len(rows) > 1 and not allow_equal and _spread(found, blocks) <= SAME_DIRECTION:
        raise ValueError(
            f"{name} has one direction for all {len(rows)} images: the network has collapsed,"
            " train it again"
        )
    return found


def _spread(directions: Directions, blocks: list[slice]) -> float:
    """Returns the greatest range of a column of unit rows."""
    ends = [(unit.min(axis=0), unit.max(axis=0)) for unit in map(directions.unit, blocks)]
    least, greatest = np.min([low for low, _ in ends], 0), np.max([high for _, high in ends], 0)
    return float((greatest - least).max())


def as_embeddings(array: ArrayLike, name: str) -> np.ndarray:
    """Returns the embeddings of `as_directions` with their lengths, float64 `[N, D]`."""
    return as_directions(array, name).rows.astype(np.float64)


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
    return rows / _norms(rows, [slice(None)], name)[:, np.newaxis]


def _norms(rows: np.ndarray, blocks: list[slice], name: str) -> np.ndarray:
    """Returns the L2 norms of rows, float64 `[N]`; raises `ValueError` as `unit_rows`."""
    with np.errstate(over="ignore", invalid="ignore"):  # such norms are an error below
        norms = np.concatenate(
            [np.linalg.norm(rows[block].astype(np.float64), axis=1) for block in blocks]
        )
    broken = np.flatnonzero(~((norms > 0) & np.isfinite(norms)))
    if broken.size:
        raise ValueError(
            f"{name} has {broken.size} of {len(rows)} rows that cannot be normalized, first row"
            f" {broken[0]} of norm {norms[broken[0]]:g}: leave these images out or repair the"
            " network"
        )
    return norms


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


def check_widths(gallery: Directions, others: Directions, name: str) -> None:
    """Raises `ValueError` if embeddings cannot be compared with those of a gallery."""
    if gallery.width != others.width:
        raise ValueError(
            f"gallery has {gallery.width} columns and {name} {others.width}: embed both with"
            " networks of one embedding space"
        )


def check_block(block_size: int | None) -> None:
    """Raises `ValueError` if a number of scores at once is not positive."""
    if block_size is not None and block_size < 1:
        raise ValueError(f"block_size must be 1 or more scores at once, not {block_size}")


def identity_ranks(
    queries: Directions,
    query_labels: np.ndarray,
    gallery: Directions,
    gallery_labels: np.ndarray,
    *,
    block_size: int | None = None,
) -> np.ndarray:
    """Computes the rank of the label of each query among all labels, each by its nearest image.

    The rank is pessimistic: another label with an equal score is ranked first. If only greater
    scores counted, a network that maps all images to one point would reach rank 1 for every query.

    Args:
        queries: embeddings `[Q, D]`.
        query_labels: labels `[Q]`; every query has a mate in the gallery.
        gallery: embeddings `[G, D]`.
        gallery_labels: labels `[G]`.
        block_size: number of scores in memory at once; at least those of one query are. None is
            `SCORES_AT_ONCE`.

    Returns:
        Ranks, int64 `[Q]`; 1 if the nearest image is a mate.

    Raises:
        ValueError: if `block_size` is not positive.
    """
    check_block(block_size)
    step = max(1, (block_size or SCORES_AT_ONCE) // len(gallery))
    order = np.argsort(gallery_labels, kind="stable")
    known = gallery.unit(order)
    identities, starts = np.unique(gallery_labels[order], return_index=True)
    ranks = np.empty(len(queries), np.int64)
    for start in range(0, len(queries), step):
        block = slice(start, start + step)
        scores = np.maximum.reduceat(queries.unit(block) @ known.T, starts, axis=1)
        mate = query_labels[block, np.newaxis] == identities
        nearest = scores.max(axis=1, where=mate, initial=-np.inf, keepdims=True)
        ranks[block] = 1 + np.sum((scores >= nearest - TIE) & ~mate, axis=1)
    return ranks
