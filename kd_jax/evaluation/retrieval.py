"""Retrieval: the images of the same class among the nearest images of a gallery."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from jax.sharding import Mesh
from numpy.typing import ArrayLike

from kd_jax.core.errors import check_choice
from kd_jax.evaluation import _embeddings
from kd_jax.evaluation.mate_ranks import LabeledSet, mate_ranks

METRICS = ("recall", "map_at_r", "r_precision", "nmi")
"""Metrics of `retrieval`. `nmi` clusters all queries, which is slow for many classes."""


@dataclasses.dataclass(frozen=True)
class Retrieval:
    """Result of `retrieval`.

    Attributes:
        recall_at: Recall@K by K, 0 to 1; empty if not asked for.
        map_at_r: mean average precision at R, 0 to 1; None if not asked for.
        r_precision: precision at R, 0 to 1; None if not asked for.
        nmi: normalized mutual information of clusters and classes, 0 to 1; None if not asked for.
        queries: number of queries.
        singletons: number of images that are no query, because the gallery has no other image of
            their class.
        gallery: number of images in the gallery.
        classes: number of classes of the queries.
    """

    recall_at: Mapping[int, float]
    map_at_r: float | None
    r_precision: float | None
    nmi: float | None
    queries: int
    singletons: int
    gallery: int
    classes: int

    def metrics(self) -> dict[str, float]:
        """Returns the metrics that were asked for: `recall_at_<K>`, `map_at_r` and so on."""
        named = {"map_at_r": self.map_at_r, "r_precision": self.r_precision, "nmi": self.nmi}
        recalls = {f"recall_at_{k}": value for k, value in self.recall_at.items()}
        return {**recalls, **{name: value for name, value in named.items() if value is not None}}

    def to_json(self) -> dict[str, Any]:
        """Returns metrics and numbers of images as values for `json.dumps`."""
        numbers = ("queries", "singletons", "gallery", "classes")
        return {**self.metrics(), **{name: getattr(self, name) for name in numbers}}


def recall_at_k(
    embeddings: ArrayLike,
    labels: ArrayLike,
    *,
    ks: Iterable[int] = (1, 2, 4, 8),
    block_size: int | None = None,
) -> dict[str, float | int]:
    """Computes Recall@K of metric learning: each image queries all others by cosine similarity.

    It is the metric `recall` of `retrieval` in one set of images.

    Args:
        embeddings: embeddings `[N, D]` of any norm.
        labels: classes `[N]`, integers or strings. An image that is alone in its class cannot
            succeed: it is no query, but other queries can find it.
        ks: values of K, each from 1 to N - 1.
        block_size: as in `retrieval`.

    Returns:
        `recall_at_<K>` for each K, the fraction of the queries that succeed, 0 to 1; `queries`, the
        number of queries; `singletons`, the number of images that are alone in their class.

    Raises:
        ValueError: for all reasons of `retrieval`.

    References:
        Oh Song et al., `Deep metric learning via lifted structured feature embedding
        <https://arxiv.org/abs/1511.06452>`_, CVPR 2016.
    """
    found = retrieval(embeddings, labels, ks=ks, block_size=block_size)
    return {**found.metrics(), "queries": found.queries, "singletons": found.singletons}


def retrieval(
    embeddings: ArrayLike,
    labels: ArrayLike,
    gallery: ArrayLike | None = None,
    gallery_labels: ArrayLike | None = None,
    *,
    ks: Iterable[int] = (1, 2, 4, 8),
    metrics: Iterable[str] = ("recall",),
    seed: int = 0,
    mesh: Mesh | None = None,
    block_size: int | None = None,
) -> Retrieval:
    """Computes metrics of retrieval by cosine similarity: each query ranks all images of a gallery.

    A query has R mates, the images of its class in the gallery. The r-th mate has the rank p_r.

    - `recall`: Recall@K, the fraction of the queries with p_1 <= K.
    - `map_at_r`: mean over the queries of `1/R sum_r [p_r <= R] r / p_r`.
    - `r_precision`: mean over the queries of `1/R sum_r [p_r <= R]`.
    - `nmi`: mutual information of the classes of the queries and of their clusters, divided by the
      mean of both entropies. k-means of scikit-learn makes as many clusters of the unit rows as
      there are classes. It does not use the gallery.

    The image of the query is left out by its row and not by its score, so that a copy of the image
    counts. The result is pessimistic: of images whose scores differ by at most 1e-12 in float64,
    those of other classes are ranked first. The result is that of float64 on all devices.

    Args:
        embeddings: embeddings of the queries `[N, D]`, of any norm.
        labels: classes `[N]`, integers or strings. An image without a mate is no query.
        gallery: embeddings of the gallery `[G, D]`. None is `embeddings`.
        gallery_labels: classes `[G]`. None if the gallery has the images of the queries in the same
            order, such as in another resolution or by another network: row i is then left out of
            the gallery of query i.
        ks: values of K, each from 1 to the number of images that a query can find.
        metrics: names in `METRICS`. The time of `map_at_r` and `r_precision` grows with the number
            of images per class.
        seed: seed of k-means.
        mesh: devices that share the gallery; None is all.
        block_size: number of scores on each device at once; it does not change the result. None
            depends on the device.

    Returns:
        The metrics and the numbers of images.

    Raises:
        ValueError: if the shapes do not fit; if embeddings have NaN, infinity, a row of zeros or
            one direction for all images; if there is only one class, or no query.
        UsageError: if a metric is unknown.

    References:
        Oh Song et al., `Deep metric learning via lifted structured feature embedding
        <https://arxiv.org/abs/1511.06452>`_, CVPR 2016, for Recall@K and NMI; Musgrave et al., `A
        metric learning reality check <https://arxiv.org/abs/2003.08505>`_, ECCV 2020, for the
        others.
    """
    metrics = tuple(check_choice(name, METRICS, "metrics") for name in metrics)
    same = gallery_labels is None
    queries, known = _sets(embeddings, labels, gallery, gallery_labels)
    sizes = np.bincount(known.classes, minlength=1 + queries.classes.max())
    mates = sizes[queries.classes] - same
    rows = np.flatnonzero(mates > 0)
    present = int(np.count_nonzero(sizes))
    if present >= 2 and not rows.size and not same:
        raise ValueError(
            "gallery_labels has none of the classes of labels, so that no query could succeed: pass"
            " a gallery with images of these classes"
        )
    if present < 2 or not rows.size:
        raise ValueError(
            f"labels has {present} classes for {len(known)} images, so that each query would"
            " succeed or none could: pass two or more classes, at least one of them with several"
            " images"
        )
    ks = _embeddings.as_ranks(ks, len(known) - same, "ks") if "recall" in metrics else ()
    precise = bool({"map_at_r", "r_precision"} & {*metrics})
    chosen = LabeledSet(queries.directions.keep(rows), queries.classes[rows])
    ranks = np.ones((len(rows), 1), np.int64)
    if metrics != ("nmi",):
        ranks = mate_ranks(
            chosen,
            known,
            own=rows if same else None,
            ks=ks,
            exact_to=mates[rows] if precise else None,
            mesh=mesh,
            block_size=block_size,
        )
    precision, average = _at_r(ranks, mates[rows])
    return Retrieval(
        recall_at={k: float(np.mean(ranks[:, 0] <= k)) for k in ks},
        map_at_r=average if "map_at_r" in metrics else None,
        r_precision=precision if "r_precision" in metrics else None,
        nmi=nmi(chosen, seed) if "nmi" in metrics else None,
        queries=len(rows),
        singletons=len(queries) - len(rows),
        gallery=len(known),
        classes=len(np.unique(chosen.classes)),
    )


def _sets(
    embeddings: ArrayLike,
    labels: ArrayLike,
    gallery: ArrayLike | None,
    gallery_labels: ArrayLike | None,
) -> tuple[LabeledSet, LabeledSet]:
    """Checks both sets, and numbers their classes together."""
    queries = _embeddings.as_directions(embeddings, "embeddings")
    known = queries if gallery is None else _embeddings.as_directions(gallery, "gallery")
    _embeddings.check_widths(known, queries, "embeddings")
    of_queries = of_gallery = _embeddings.as_labels(labels, len(queries), "labels")
    if gallery_labels is not None:
        of_gallery = _embeddings.as_labels(gallery_labels, len(known), "gallery_labels")
    elif len(queries) != len(known):
        raise ValueError(
            f"gallery has {len(known)} rows and embeddings {len(queries)}: pass gallery_labels for"
            " a gallery of other images"
        )
    _, classes = np.unique(np.concatenate([of_queries, of_gallery]), return_inverse=True)
    first, second = np.split(classes, [len(of_queries)])
    return LabeledSet(queries, first), LabeledSet(known, second)


def _at_r(ranks: np.ndarray, mates: np.ndarray) -> tuple[float, float]:
    """Returns R-precision and mean average precision at R.

    Args:
        ranks: ranks of the mates in ascending order, int `[Q, M]`.
        mates: number R of mates of each query, int `[Q]`.
    """
    found = ranks <= mates[:, np.newaxis]
    precisions = np.arange(1, ranks.shape[1] + 1) / ranks
    average = np.sum(precisions, axis=1, where=found) / mates
    return float(np.mean(found.sum(axis=1) / mates)), float(np.mean(average))


def nmi(queries: LabeledSet, seed: int) -> float:
    """Returns the normalized mutual information of k-means clusters and classes, 0 to 1.

    k-means (Lloyd's algorithm, started once by k-means++) sees unit rows in float32.
    """
    from sklearn.cluster import KMeans
    from sklearn.metrics import normalized_mutual_info_score

    units = queries.directions.unit().astype(np.float32)
    clusters = KMeans(len(np.unique(queries.classes)), n_init=1, random_state=seed)
    return float(normalized_mutual_info_score(queries.classes, clusters.fit_predict(units)))
