"""Ranks of mates among the images of a gallery, counted on all devices and exact as in float64.

The rank of a mate needs no sorted list: it is 1 plus the number of better mates plus the number of
images of other classes whose score is not lower. The scores of mates are few and are computed on
the host in float64. The devices compute all other scores in float32 and count those that are
certainly not lower, and those that are possibly not lower. The two counts differ only where a score
is within the rounding error of float32 from that of the mate. If the difference could change a
result, the host computes all scores of this query in float64. The result therefore does not depend
on the devices, their number, or the size of the blocks.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import TypeVar

import jax
import numpy as np
from jax.sharding import Mesh

from kd_jax.core.devices import data_mesh
from kd_jax.evaluation._embeddings import SCORES_AT_ONCE, TIE, Directions, check_block
from kd_jax.evaluation.device_gallery import DeviceGallery

_ROWS = 2**13
"""Maximum number of images of the gallery in float64 at once."""
_Item = TypeVar("_Item")


@dataclasses.dataclass(frozen=True)
class LabeledSet:
    """Embeddings with their classes.

    Attributes:
        directions: the embeddings, `[N, D]`.
        classes: class of each, int `[N]`, 0 or more.
    """

    directions: Directions
    classes: np.ndarray

    def __len__(self) -> int:
        return len(self.classes)


def mate_ranks(
    queries: LabeledSet,
    gallery: LabeledSet,
    *,
    own: np.ndarray | None = None,
    ks: Iterable[int] = (),
    exact_to: np.ndarray | None = None,
    mesh: Mesh | None = None,
    block_size: int | None = None,
) -> np.ndarray:
    """Computes the ranks of the mates of each query: of the images that have its class.

    The ranks are pessimistic: images of other classes whose scores are equal, within 1e-12 in
    float64, are ranked before the mate. If only greater scores counted, a network that maps all
    images to one point would reach rank 1 for every query.

    Args:
        queries: Q queries; each has a mate in the gallery.
        gallery: G images.
        own: row of the gallery that is the image of the query and is left out, int `[Q]`.
        ks: values that the rank of the first mate is compared with; these comparisons are exact.
        exact_to: greatest rank of each query that must be exact, int `[Q]`. None computes the rank
            of the first mate only.
        mesh: devices that share the gallery; None is all.
        block_size: number of scores on each device at once; it does not change the result. None
            depends on the device.

    Returns:
        Ranks in ascending order, int64 `[Q, M]`. M is 1, or with `exact_to` the greatest number of
        mates; queries with fewer mates have `G + 1` in the other columns. A rank that need not be
        exact is at most too large.

    Raises:
        ValueError: if `block_size` is not positive.
    """
    check_block(block_size)
    mates = _Mates(queries, gallery, own, all_of_them=exact_to is not None)
    known = DeviceGallery(
        gallery.directions, gallery.classes, len(queries), mesh or data_mesh(), block_size
    )
    order = np.argsort(queries.classes, kind="stable")  # queries of a class share their mates
    ranks = np.empty((len(queries), mates.most), np.int64)
    doubtful = []

    def start(rows: np.ndarray) -> tuple[np.ndarray, jax.Array]:
        limits = _limits(mates.scores(rows), known.error)
        units = queries.directions.unit(rows)
        return rows, known.count_others(units, queries.classes[rows], limits)

    # The devices count for one block while the host computes the mates of the next one.
    for rows, counts in _one_ahead(map(start, _parts(order, known.step))):
        both = np.asarray(counts)[..., : len(rows)].swapaxes(1, 2).astype(np.int64)
        low, high = (mates.ranks(rows, count) for count in both)
        ranks[rows] = high
        undecided = np.zeros(len(rows), bool)
        for k in ks:
            undecided |= (low[:, 0] <= k) & (k < high[:, 0])
        if exact_to is not None:
            undecided |= ((low < high) & (low <= exact_to[rows, np.newaxis])).any(axis=1)
        doubtful.append(rows[undecided])
    for rows in _parts(np.concatenate(doubtful), known.step):
        ranks[rows] = mates.ranks(rows, _exact_counts(queries, rows, mates.scores(rows), gallery))
    return ranks


class _Mates:
    """The mates of all queries: images of their class in the gallery, except the query itself."""

    def __init__(
        self, queries: LabeledSet, gallery: LabeledSet, own: np.ndarray | None, all_of_them: bool
    ):
        """Finds the images of each class.

        Args:
            queries: the queries.
            gallery: the gallery.
            own: row of the gallery that is the image of each query, or None.
            all_of_them: use all mates; otherwise only the nearest one of each query.
        """
        self._queries, self._gallery, self._own = queries, gallery, own
        self._rows = np.argsort(gallery.classes, kind="stable")
        number = 1 + max(queries.classes.max(), gallery.classes.max())
        sizes = np.bincount(gallery.classes, minlength=number)
        self._ends = np.cumsum(sizes)
        self._starts = self._ends - sizes
        most = int(sizes[queries.classes].max()) - (own is not None)
        self.most = most if all_of_them else 1

    def scores(self, rows: np.ndarray) -> np.ndarray:
        """Returns the scores of the mates in descending order, float64 `[K, M]`.

        Args:
            rows: rows of the queries `[K]`, sorted by class. Missing mates have `-inf`.
        """
        found = np.full((len(rows), self.most), -np.inf)
        classes = self._queries.classes[rows]
        starts = np.flatnonzero(np.diff(classes, prepend=-1))
        for start, stop in zip(starts, [*starts[1:], len(rows)], strict=True):
            label = classes[start]
            mates = self._rows[self._starts[label] : self._ends[label]]
            units = self._gallery.directions.unit(mates)
            step = max(1, SCORES_AT_ONCE // len(mates))
            for first in range(start, stop, step):
                block = slice(first, min(first + step, stop))
                scores = self._queries.directions.unit(rows[block]) @ units.T
                if self._own is not None:
                    scores[self._own[rows[block], np.newaxis] == mates] = -np.inf
                if self.most == 1:
                    found[block, 0] = scores.max(axis=1)
                else:
                    found[block, : len(mates)] = -np.sort(-scores, axis=1)[:, : self.most]
        return found

    def ranks(self, rows: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Returns the ranks of the mates, int64 `[K, M]`.

        Args:
            rows: rows of the queries `[K]`.
            counts: number of images of other classes before each mate, int `[K, M]`.
        """
        ranks = counts + np.arange(1, self.most + 1)
        sizes = (self._ends - self._starts)[self._queries.classes[rows]] - (self._own is not None)
        ranks[np.arange(self.most) >= sizes[:, np.newaxis]] = len(self._gallery) + 1
        return ranks


def _limits(scores: np.ndarray, error: float) -> np.ndarray:
    """Returns limits in float32: others that reach them are certainly, or possibly, not lower.

    Args:
        scores: scores of mates, float64 `[K, M]`; `-inf` for missing ones.
        error: greatest rounding error of a score in float32.

    Returns:
        Certain and possible limits, `[2, M, K]`; `inf` for missing mates.
    """
    certain = np.nextafter((scores - TIE + error).astype(np.float32), np.float32(np.inf))
    possible = np.nextafter((scores - TIE - error).astype(np.float32), np.float32(-np.inf))
    both = np.stack([certain.T, possible.T])
    return np.where(np.isfinite(both), both, np.float32(np.inf))


def _exact_counts(
    queries: LabeledSet, rows: np.ndarray, scores: np.ndarray, gallery: LabeledSet
) -> np.ndarray:
    """Counts images of other classes before each mate, in float64 on the host.

    Args:
        queries: the queries.
        rows: rows of some queries `[K]`.
        scores: scores of their mates `[K, M]`.
        gallery: the gallery.

    Returns:
        Counts, int64 `[K, M]`.
    """
    counts = np.zeros(scores.shape, np.int64)
    units, classes = queries.directions.unit(rows), queries.classes[rows, np.newaxis]
    step = max(1, min(_ROWS, SCORES_AT_ONCE // len(rows)))
    for start in range(0, len(gallery), step):
        block = slice(start, start + step)
        others = units @ gallery.directions.unit(block).T
        others[classes == gallery.classes[block]] = -np.inf
        others.sort(axis=1)
        for count, limits, row in zip(counts, scores - TIE, others, strict=True):
            count += len(row) - np.searchsorted(row, limits)
    return counts


def _one_ahead(items: Iterable[_Item]) -> Iterator[_Item]:
    """Yields each item after the next one has been made."""
    iterator = iter(items)
    previous = next(iterator)
    for item in iterator:
        yield previous
        previous = item
    yield previous


def _parts(rows: np.ndarray, step: int) -> list[np.ndarray]:
    """Divides rows into parts of `step` rows; the last one may be shorter."""
    return [rows[start : start + step] for start in range(0, len(rows), step)]
